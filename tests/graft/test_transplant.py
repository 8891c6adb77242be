"""Does a slice of one run go where it belongs in another's, and is its effect on the symptom told truly?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import ShapeError, UsageError
from parity.graft import select_graft, transplant
from parity.metrics.logits import logit_distance
from parity.records import Site, Slice
from parity.runner import CapturePlan, Request, open_runner
from parity_kernels.forward.runner import open_runner as open_engine

PROMPT = Request("random", tuple(torch.randint(0, 80, (40,), generator=torch.Generator().manual_seed(5)).tolist()))


@pytest.fixture
def scaled(fp8_model: Path) -> Callable[[float], Any]:
    """An engine whose second layer's query is scaled in head 1, by the given factor."""

    def build(factor: float) -> Any:
        engine = open_engine(str(fp8_model))
        op, calls = engine.engine.ops["qk_norm_rope"], [0]

        def changed(*args: Any, **kwargs: Any) -> Any:
            q, k = op(*args, **kwargs)
            number, calls[0] = calls[0] % engine.config.layers, calls[0] + 1
            if number == 1:
                q[:, 1] *= factor
            return q, k

        engine.engine.ops["qk_norm_rope"] = changed
        return engine

    return build


@pytest.fixture
def healthy(fp8_model: Path) -> Any:
    return open_engine(str(fp8_model))


def test_one_head_of_a_healthy_run_heals_the_faulty_one(healthy: Any, scaled: Callable[[float], Any]):
    site = Site((1,), "attn.q_rope", Slice(heads=(1,)))
    found = transplant(donor=healthy, recipient=scaled(-1.0), request=PROMPT, site=site, max_new_tokens=3)
    assert found.effect.kl_before > 0
    assert found.effect.kl_after == pytest.approx(0, abs=1e-12)  # same kernels, same inputs: the same bits
    assert found.after == found.donor
    other = transplant(
        donor=healthy, recipient=scaled(-1.0), request=PROMPT, site=Site((1,), "attn.q_rope", Slice(heads=(0,)))
    )
    assert other.effect.changed == 0, "head 0 was right: its tensor is the same bits"
    assert other.effect.kl_after == other.effect.kl_before > 0


def test_the_other_way_the_fault_travels(healthy: Any, scaled: Callable[[float], Any]):
    site = Site((1,), "attn.q_rope", Slice(heads=(1,), positions=(20, 40)))
    found = transplant(donor=scaled(-1.0), recipient=healthy, request=PROMPT, site=site)
    assert found.effect.changed > 0
    assert found.effect.kl_after < found.effect.kl_before
    part = transplant(
        donor=scaled(-1.0), recipient=healthy, request=PROMPT, site=Site((1,), "attn.q_rope", Slice(positions=(39, 40)))
    )
    vocabulary = 80
    assert 0 < part.effect.changed <= vocabulary, "the last position of the last layer reaches one row of logits"


def test_an_experts_rows_are_matched_by_expert(fp8_model: Path, healthy: Any):
    oracle = open_runner(f"recipe:{fp8_model}", recipe="fp32")
    plan = CapturePlan()
    given, own = (runner.forward([PROMPT], capture=plan) for runner in (oracle, healthy))
    expert = int(own.select(stage="moe.down", layer=0)[0].rows.expert[0])
    chosen = select_graft(donor=given, recipient=own, layer=0, stage="moe.down", where=Slice(experts=(expert,)))
    rows = chosen.graft.rows
    assert set(rows.expert.tolist()) == {expert}  # type: ignore[union-attr]
    capture = given.select(stage="moe.down", layer=0)[0]
    of = {
        (p, e): n
        for n, (p, e) in enumerate(zip(capture.rows.position.tolist(), capture.rows.expert.tolist(), strict=True))
    }
    for n, position in enumerate(rows.position.tolist()):
        assert torch.equal(chosen.graft.tensor[n], given.tensor(capture)[of[position, expert]])
    some = select_graft(
        donor=given, recipient=own, layer=0, stage="moe.down", where=Slice(experts=(expert,), rows=(0, 2))
    )
    assert len(some.graft.rows) == 2
    weights = select_graft(donor=given, recipient=own, layer=0, stage="moe.topk_weights")
    assert len(weights.graft.rows) + weights.left_out == 40


@pytest.mark.parametrize(
    ("stage", "layer", "where", "said"),
    [
        ("attn.q_rope", 0, Slice(heads=(9,)), "heads from 0"),
        ("attn.q_rope", 0, Slice(experts=(1,)), "axes that this stage has"),
        ("resid.out", 0, Slice(heads=(1,)), "axes that this stage has"),
        ("resid.out", 0, Slice(positions=(90, 95)), "at least one row"),
        ("resid.out", 7, None, "of a model with the layers 0"),
        ("moe.down", 0, Slice(experts=(77,)), "at least one row"),
    ],
)
def test_a_slice_that_is_not_there_is_refused(healthy: Any, stage: str, layer: int, where: Slice | None, said: str):
    trace = healthy.forward([PROMPT], capture=CapturePlan())
    with pytest.raises(UsageError, match=said):
        select_graft(donor=trace, recipient=trace, layer=layer, stage=stage, where=where)


def test_the_inside_of_a_kernel_is_refused_before_anything_runs(healthy: Any):
    with pytest.raises(UsageError, match="stages that read this one"):
        transplant(donor=None, recipient=healthy, request=PROMPT, site=Site((0,), "attn.q_norm"))


def test_distance_of_logits():
    y = torch.tensor([[0.0, 1.0, 2.0], [3.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    x = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 3.0], [torch.nan, 0.0, 1.0]])
    found = logit_distance(oracle=y, sut=x)
    assert found.top1.tolist() == [True, False, False]
    assert found.kl[0] == 0
    p, q = y[1].double().softmax(0), x[1].double().softmax(0)
    assert found.kl[1] == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-12)
    assert np.isnan(found.kl[2])
    assert found.gap[1] == 0.0  # ties to the lower id: the SUT's choice is as good in the oracle's logits
    assert len(logit_distance(oracle=torch.zeros(0, 3), sut=torch.zeros(0, 3))) == 0
    shifted = logit_distance(oracle=y[:2].bfloat16(), sut=y[:2] + 7)
    assert shifted.kl == pytest.approx([0, 0], abs=1e-15)
    with pytest.raises(ShapeError):
        logit_distance(oracle=y, sut=y[:, :2])
