"""The dense families: HF's stages, the recipe's own and the checkpoint's tensors agree, and can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.ladder.replay import Replay
from parity.runner import CapturePlan, Graft, Request
from parity.stages import FAMILIES
from parity_oracles.hf.runner import HfRunner
from parity_oracles.hf.runner import open_runner as open_hf
from parity_oracles.recipes.runner import open_runner as open_recipe

REQUEST = Request("a", tuple(number * 7 % 211 for number in range(21)))


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def folder(request: pytest.FixtureRequest, make_model: Callable[..., Path]) -> Path:
    return make_model(
        model_type=request.param, architectures=[], hidden_size=96, head_dim=16, intermediate_size=72,
        tie_word_embeddings=request.param == "qwen3",
    )  # fmt: skip


@pytest.fixture(scope="module")
def hf(folder: Path) -> HfRunner:
    return open_hf(str(folder))


def test_every_stage_is_shown_and_the_logits_keep_their_bits(hf: HfRunner) -> None:
    trace = hf.forward([REQUEST], capture=CapturePlan())
    wanted = [(layer, stage.name) for layer, stage in FAMILIES[hf.describe().family].sites(2)]
    assert {(c.layer, c.stage) for c in trace.captures} == set(wanted)
    assert torch.equal(trace.tensor(trace.select(stage="logits")[0]), hf.logits([REQUEST]))


def test_the_recipes_stages_in_fp32_are_hfs(hf: HfRunner) -> None:
    # Both compute in fp32: a few roundings of sums over at most 96 terms, 2^-24 each.
    trace = hf.forward([REQUEST], capture=CapturePlan())
    summary = Replay(trace, hf).compare(floor=None)
    assert len(summary.comparisons) == len(trace.captures)
    assert max(record.whole["rel_l2"] for record in summary.comparisons) < 1e-6


def test_a_wrong_stage_is_seen_by_replay(hf: HfRunner) -> None:
    trace = hf.forward([REQUEST], capture=CapturePlan())
    down = trace.select(stage="mlp.down", layer=1)[0]
    graft = Graft(1, "mlp.down", trace.tensor(down) * 1.01, down.rows)
    changed = hf.forward([REQUEST], capture=CapturePlan(), graft=[graft])
    worst = {r.name: r.whole["rel_l2"] for r in Replay(changed, hf).compare(floor=None).comparisons}
    assert worst.pop("L01.mlp.down") == pytest.approx(0.01, rel=1e-3)
    assert max(worst.values()) < 1e-6


@pytest.mark.parametrize("stage", ["mlp.act", "attn.q_rope", "attn.context"])
def test_a_graft_reaches_the_logits(hf: HfRunner, stage: str) -> None:
    trace = hf.forward([REQUEST], capture=CapturePlan())
    capture = trace.select(stage=stage, layer=0)[0]
    same = hf.forward([REQUEST], graft=[Graft(0, stage, trace.tensor(capture), capture.rows)])
    other = hf.forward([REQUEST], graft=[Graft(0, stage, trace.tensor(capture) * 1.5, capture.rows)])
    logits = hf.logits([REQUEST])
    assert torch.equal(same.tensor(same.captures[0]), logits)
    assert not torch.equal(other.tensor(other.captures[0]), logits)


def test_both_oracles_continue_alike_through_their_caches(hf: HfRunner, folder: Path) -> None:
    recipe = open_recipe(str(folder), recipe="fp32")
    assert hf.generate(REQUEST, max_new_tokens=6).ids == recipe.generate(REQUEST, max_new_tokens=6).ids


def test_every_tensor_is_stored_at_a_stage_of_the_family(hf: HfRunner) -> None:
    stages = {stage.name for _, stage in FAMILIES[hf.describe().family].sites(1)}
    stored = hf.stored()
    assert {tensor.name for tensor in stored} == set(hf.checkpoint.names)
    assert {place[1] for tensor in stored for place in tensor.places} <= stages


def test_norms_of_heads_decide_the_family(make_model: Callable[..., Path]) -> None:
    """A qwen3 without its head norms is not a llama: the two compute otherwise."""
    sizes = {"architectures": [], "hidden_size": 96, "head_dim": 16, "num_hidden_layers": 1}
    logits = [open_hf(str(make_model(model_type=family, **sizes))).logits([REQUEST]) for family in ("llama", "qwen3")]
    assert float((logits[0] - logits[1]).norm() / logits[0].norm()) > 0.01
