"""Does the isolated gate see what the recipe's own noise covers, by distance to the recipe's emulation?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.align import align
from parity.errors import UsageError
from parity.floor import Floor
from parity.ladder import Replay
from parity.records import Comparison, Lineage, Verdict
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.trace import MemoryTrace, Trace
from parity_kernels.forward.runner import open_runner as open_engine
from tests.ladder.conftest import look_at

FACTOR = 1.005
Edit = Callable[[torch.Tensor, np.ndarray], None]


@pytest.fixture(scope="module")
def clean(fp8_model: Path, request_160: Request) -> Trace:
    """A correct implementation in an order that is not the reference, its prompt in two chunks."""
    emulation = open_runner(f"recipe:{fp8_model}", order=1)
    return emulation.forward([request_160], schedule=Schedule(chunk=96), capture=CapturePlan())


def edited(trace: Trace, layer: int, stage: str, edit: Edit) -> MemoryTrace:
    """The trace with one stage's captures changed in place; edit gets the payload and the expert of each row."""
    tensors = {capture.number: trace.tensor(capture) for capture in trace.captures}
    for capture in trace.select(stage=stage, layer=layer):
        wide = tensors[capture.number].float().clone()
        edit(wide, np.zeros(len(wide)) if capture.rows.expert is None else capture.rows.expert)
        tensors[capture.number] = wide.to(tensors[capture.number].dtype)
    return MemoryTrace(trace.run, trace.captures, tensors)


def judged(trace: Trace, oracle: Any, floor: Floor, layer: int, stage: str) -> Comparison:
    replay = Replay(trace, oracle)
    (record,) = replay.judge(replay.site(layer, stage), floor=floor)
    return record


def scaled(x: torch.Tensor, experts: np.ndarray) -> None:
    x *= FACTOR


def scaled_expert(x: torch.Tensor, experts: np.ndarray) -> None:
    x[torch.from_numpy(experts == 1)] *= FACTOR


def scaled_head(x: torch.Tensor, experts: np.ndarray) -> None:
    x[:, 1] *= FACTOR


def lost_row(x: torch.Tensor, experts: np.ndarray) -> None:
    x[len(x) // 2] = 0


STAGES = ("attn.norm", "attn.q", "attn.k", "attn.q_norm", "attn.q_rope", "attn.context", "attn.out", "mlp.norm",
          "moe.router_logits", "moe.topk_weights", "moe.gate", "moe.up", "moe.act", "moe.down", "moe.experts",
          "resid.out")  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_half_a_percent_and_one_lost_row_are_seen_in_every_stage(clean: Trace, oracle: Any, floor: Floor, stage: str):
    assert judged(clean, oracle, floor, 1, stage).verdict.healthy
    for edit in (scaled, lost_row):
        record = judged(edited(clean, 1, stage, edit), oracle, floor, 1, stage)
        assert record.verdict is Verdict.EXCEEDS_FLOOR, (edit.__name__, record)


@pytest.mark.parametrize("stage", ["moe.gate", "moe.up", "moe.act", "moe.down"])
def test_half_a_percent_is_seen_in_one_expert(clean: Trace, oracle: Any, floor: Floor, stage: str):
    held = align(clean, stage, 1, 0)
    assert held is not None
    assert held.expert is not None
    assert (held.expert == 1).sum() >= 64
    record = judged(edited(clean, 1, stage, scaled_expert), oracle, floor, 1, stage)
    assert record.verdict is Verdict.EXCEEDS_FLOOR
    assert record.over_gates["distance"] > record.over_gates["error"]
    assert "by distance" in record.reason


@pytest.mark.parametrize("stage", ["attn.q", "attn.q_rope", "attn.context"])
def test_half_a_percent_is_seen_in_one_head(clean: Trace, oracle: Any, floor: Floor, stage: str):
    record = judged(edited(clean, 1, stage, scaled_head), oracle, floor, 1, stage)
    assert record.verdict is Verdict.EXCEEDS_FLOOR
    worst = {one.kind: one.index for one in record.worst}
    assert worst["head"] == 1


@pytest.mark.parametrize("order", [3, 6])
def test_another_correct_order_is_within_both_gates(
    fp8_model: Path, oracle: Any, floor: Floor, order: int, request_160: Request
):
    trace = open_runner(f"recipe:{fp8_model}", order=order).forward([request_160], capture=CapturePlan())
    summary = Replay(trace, oracle).compare(floor=floor)
    assert summary.healthy, [(c.name, c.reason) for c in summary.comparisons if not c.verdict.healthy]


def test_the_engine_is_found_wrong_in_the_expert_that_is_half_a_percent_off(
    fp8_model: Path, oracle: Any, floor: Floor, request_160: Request
):
    engine = open_engine(str(fp8_model))
    op, calls = engine.engine.ops["grouped_gemm_fp8"], iter(range(10**6))

    def wrong(x: Any, *args: Any, expert_offsets: torch.Tensor, **more: Any) -> torch.Tensor:
        result = op(x, *args, expert_offsets=expert_offsets, **more)
        if next(calls) == 2:  # gate and up of the second layer
            rows = slice(int(expert_offsets[1]), int(expert_offsets[2]))
            result[rows, 1] = (result[rows, 1].float() * FACTOR).to(result.dtype)
        return result

    engine.engine.ops["grouped_gemm_fp8"] = wrong
    found = look_at(engine.forward([request_160], capture=CapturePlan()), oracle, floor)
    assert (found.finding.verdict, found.finding.stage, found.finding.layers) == ("fault", "moe.up", (1,))
    assert found.finding.slice.experts == (1,)
    gates = found.finding.evidence["by_layer"][0]["over_gates"]
    assert gates["distance"] > 4 * gates["error"]


def test_inputs_that_no_floor_knows_are_judged_by_distance_alone(oracle: Any, floor: Floor, clean: Trace):
    """A site whose gate a correct implementation is over itself, here by a gate made too narrow: it is not blamed, and
    half a percent is."""
    layer, stage = 1, "attn.q"
    narrow = replace(
        floor,
        scales={
            key: scale.times(0.25) if key.mode == "isolated" and key.stage == stage else scale
            for key, scale in floor.scales.items()
        },
    )
    record = judged(clean, oracle, narrow, layer, stage)
    assert record.verdict is Verdict.WITHIN_FLOOR
    assert "the recipe's own emulation is" in record.reason
    wrong = judged(edited(clean, layer, stage, scaled), oracle, narrow, layer, stage)
    assert wrong.verdict is Verdict.EXCEEDS_FLOOR
    assert "distance" in wrong.reason


def test_a_floor_of_other_weights_or_another_recipe_is_refused(clean: Trace, oracle: Any, floor: Floor):

    for other in (
        replace(floor, lineage=Lineage("other")),
        replace(floor, recipe=replace(floor.recipe, name="bf16")),
    ):
        with pytest.raises(UsageError, match="noise floor"):
            Replay(clean, oracle).compare(floor=other)


@pytest.mark.parametrize(("layer", "stage"), [(2, "attn.q"), (None, "attn.q"), (0, "logits"), (-1, "moe.up")])
def test_a_site_that_the_model_does_not_have_is_refused(clean: Trace, oracle: Any, layer: int | None, stage: str):
    with pytest.raises(UsageError, match="replay of"):
        Replay(clean, oracle).site(layer, stage)
