"""Is `torch:FOLDER` HF's model, every stage of it where HF has it, and grafts as the HF oracle takes them?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.errors import ConfigError, UsageError
from parity.preview import preview_runner
from parity.runner import CapturePlan, Graft, Request, Schedule, open_runner
from parity.trace import Trace
from parity_oracles.hf.runner import open_runner as open_hf
from parity_oracles.hf.torch_folder import open_runner as open_torch
from parity_oracles.torch_module import TorchRunner

ALL = CapturePlan()
Stages = dict[tuple[int | None, str], torch.Tensor]
FAMILIES = ("llama", "qwen3", "qwen3_moe")


@pytest.fixture(scope="module")
def folders(make_model: Callable[..., Path]) -> dict[str, Path]:
    # HF's llama wants heads that fill the hidden width.
    return {family: make_model(model_type=family, hidden_size=192 if family == "llama" else 160) for family in FAMILIES}


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_stage_is_hfs(
    family: str, folders: dict[str, Path], prompt: Request, stages_of: Callable[..., Stages]
) -> None:
    ours, hf = open_torch(str(folders[family])), open_hf(str(folders[family]))
    schedule = Schedule(decode=2)
    seen, theirs = (runner.forward([prompt], capture=ALL, schedule=schedule) for runner in (ours, hf))
    assert seen.complete
    assert set(seen.run.declared) == set(theirs.run.declared)
    assert seen.run.lineage == theirs.run.lineage
    for phase in ("prefill", "decode"):
        a, b = stages_of(seen, phase), stages_of(theirs, phase)
        assert a.keys() == b.keys()
        for site, value in a.items():
            if site[1] == "moe.topk_ids":
                assert torch.equal(value, b[site])
            else:
                # Two layers of about 8 fp32 products each, expert rows in another order: sqrt(160) * 2^-24 each.
                assert error(value, b[site]) < 2 * 8 * 160**0.5 * 2**-24, site
    probed = torch.cat([seen.tensor(capture) for capture in seen.select(stage="logits")])
    assert torch.equal(probed, ours.logits([prompt], schedule=schedule))
    assert ours.generate(prompt, max_new_tokens=4).ids == hf.generate(prompt, max_new_tokens=4).ids


@pytest.mark.parametrize("stage", ["attn.k_rope", "resid.mid", "moe.router_logits", "moe.topk_ids", "moe.topk_weights",
                                   "moe.up", "moe.down"])  # fmt: skip
def test_grafts_do_what_they_do_in_the_hf_oracle(
    stage: str, folders: dict[str, Path], prompt: Request, stages_of: Callable[..., Stages]
) -> None:
    """Routing follows from replaced logits or ids, a replaced residual goes on, later steps see a replaced key."""
    ours, hf = open_torch(str(folders["qwen3_moe"])), open_hf(str(folders["qwen3_moe"]))
    schedule = Schedule(decode=2)
    trace = ours.forward([prompt], capture=ALL, schedule=schedule)
    capture = trace.select(stage=stage, layer=0)[0]
    own, rows = trace.tensor(capture), capture.rows
    sham = ours.forward([prompt], capture=ALL, schedule=schedule, graft=[Graft(0, stage, own, rows)])
    for before, after in zip(logits(trace), logits(sham), strict=True):
        assert torch.equal(before, after)
    other = (own + 1) % 6 if stage == "moe.topk_ids" else own * 1.25
    graft = [Graft(0, stage, other, rows)]
    seen, theirs = (r.forward([prompt], capture=ALL, schedule=schedule, graft=graft) for r in (ours, hf))
    for phase in ("prefill", "decode"):
        a, b = stages_of(seen, phase), stages_of(theirs, phase)
        # What follows a graft goes through as many products as in the test above.
        wrong = {s: error(a[s], b[s]) for s in a if error(a[s], b[s]) >= 2 * 8 * 160**0.5 * 2**-24}
        assert not wrong


def logits(trace: Trace) -> list[torch.Tensor]:
    return [trace.tensor(capture) for capture in trace.select(stage="logits")]


def test_it_is_found_by_name_with_its_options(folders: dict[str, Path], tmp_path: Path) -> None:
    runner = open_runner(f"torch:{folders['llama']}", dtype="bfloat16", compile="aot_eager", attention="sdpa")
    assert isinstance(runner, TorchRunner)
    assert runner.describe().recipe.name == "bf16_torch_sdpa"
    assert runner.flags()["attn_implementation"] == "sdpa"
    knobs = {"attention": ("eager",), "dtype": ("float32",), "compile": ("none", "inductor")}
    assert runner.describe().knobs == knobs, "what it can be opened with otherwise"
    shown = preview_runner(f"torch:{folders['llama']}", dtype="bfloat16", compile="aot_eager", attention="sdpa")
    assert (shown.recipe, shown.stages) == ("bf16_torch_sdpa", runner.describe().stages)
    with pytest.raises(UsageError, match="attention one of eager, sdpa"):
        open_torch(str(folders["llama"]), attention="flash")
    (tmp_path / "map.toml").write_text('engine = "torch"\nfamily = "llama"\ntensor = []\n')
    with pytest.raises(ConfigError, match=r"embed.out of 1 layers: expected one source"):
        open_torch(str(folders["llama"]), stage_map=str(tmp_path / "map.toml"))


def test_the_fused_core_shows_the_same_stages(
    folders: dict[str, Path], prompt: Request, stages_of: Callable[..., Stages]
) -> None:
    runners = (open_torch(str(folders["qwen3"]), attention=core) for core in ("eager", "sdpa"))
    a, b = (stages_of(runner.forward([prompt], capture=ALL)) for runner in runners)
    assert a.keys() == b.keys()
    # Softmax in another order, then as many products as above.
    assert max(error(a[site], b[site]) for site in a) < 2 * 8 * 160**0.5 * 2**-24


@pytest.mark.parametrize("core", ["eager", "sdpa"])
def test_the_recipe_is_what_pytorch_computes_in_bf16(
    core: str, folders: dict[str, Path], prompt: Request, stages_of: Callable[..., Stages],
    replayed: Callable[..., torch.Tensor],
) -> None:  # fmt: skip
    """Its emulation gives nearly every element of every stage bit for bit from the same inputs; the fused one does not.

    What is left is where two orders of the same sum of 160 products, or of the fused core's blocks, round apart.
    """
    folder = str(folders["qwen3_moe"])
    engine = open_torch(folder, dtype="bfloat16", attention=core)
    seen = stages_of(engine.forward([prompt], capture=ALL))
    own, fused = (open_runner(f"recipe:{folder}", recipe=name) for name in (engine.recipe.name, "bf16"))
    apart = set()
    for layer, stage in seen:
        if stage == "moe.topk_ids":
            continue
        same = [
            (replayed(one, seen, layer, stage, one.arithmetic.name, prompt.ids) == seen[layer, stage]).double().mean()
            for one in (own, fused)
        ]
        assert same[0] > (0.9 if stage == "attn.context" and core == "sdpa" else 0.99), (layer, stage, same)
        if same[1] < 0.9:
            apart.add(stage)
    assert {"attn.q_rope", "attn.norm", "moe.act", "moe.router_logits", "logits"} <= apart
