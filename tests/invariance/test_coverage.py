"""Launch arithmetic against true loads: what the geometry shows counts, not what the host believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from parity.invariance import Outcome, launch_coverage
from parity.invariance.launches import judge_coverage
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run, Slice
from parity.trace import MemoryTrace

RECIPE = Recipe("bf16", "bf16", "bf16", "bf16", "fp32", "bf16", "bf16")
HERE = Environment("3", "2", None, None, "", "", 1, "cpu", False)


def trace(launch: dict[str, Any], geometry: dict[str, Any]) -> MemoryTrace:
    rows = Rows(np.zeros(6, np.int32), np.arange(6), np.zeros(6, np.int32), np.zeros(6, np.int32))
    capture = Capture(0, "moe.gate", 2, "prefill", 0, 0, ("R", "F"), "float32", (6, 1), rows, geometry, launch)
    run = Run("qwen3_moe", "m", 3, ("a",), ((1,) * 6,), RECIPE, Lineage("x"), HERE)
    return MemoryTrace(run, (capture,), {0: torch.zeros(6, 1)})


def test_the_true_loads_decide():
    launch = {"grid": [1, 1, 3], "covers": {"rows_per_expert": 4}, "requires": {"rows_per_expert": 4}}
    (coverage,) = launch_coverage(trace(launch, {"tile_m": 4, "expert_offsets": [0, 5, 5, 6]}))
    assert coverage.truncated
    assert (coverage.required, coverage.lost, coverage.loads) == (5, 1, (5, 0, 1))
    assert coverage.line() == "L02.moe.gate: rows=6 avg=2 max=5 grid_cap=4 truncated=true"


def test_a_grid_that_reaches_everything_is_not_truncated():
    launch = {"grid": [2, 1, 3], "covers": {"rows_per_expert": 8}, "requires": {"rows_per_expert": 6}}
    (coverage,) = launch_coverage(trace(launch, {"expert_offsets": [0, 5, 5, 6]}))
    assert not coverage.truncated
    assert coverage.lost == 0


def test_without_groups_the_launch_is_taken_at_its_word():
    launch = {"grid": [2], "covers": {"tokens": 65535}, "requires": {"tokens": 65536}}
    (coverage,) = launch_coverage(trace(launch, {}))
    assert coverage.truncated
    assert coverage.lost == 1


def test_a_capture_without_a_launch_claims_nothing():
    assert launch_coverage(trace({}, {"expert_offsets": [0, 6]})) == ()


def test_the_rows_of_a_capture_are_what_its_own_launch_had_to_make():
    """A launch that miscounts its tokens miscounts what it requires; another one's rows are not the capture's."""
    launch = {"op": "combine", "grid": [1], "covers": {"tokens": 4, "permute.rows": 2}}
    launch["requires"] = {"tokens": 4, "permute.rows": 2}
    own, other = launch_coverage(trace(launch, {}))
    assert own.truncated
    assert (own.required, own.lost) == (6, 2)
    assert own.line() == "L02.moe.gate: tokens=6 grid_cap=4 truncated=true"
    assert not other.truncated
    attention = {"op": "attention_prefill", "grid": [1], "covers": {"rows": 3}, "requires": {"rows": 3}}
    assert not launch_coverage(trace(attention, {}))[0].truncated, "rows of one request, not of the step"


@pytest.mark.parametrize(
    ("extent", "part"),
    [
        ("columns", Slice(columns=(4, 6))), ("linear.cols", Slice(columns=(4, 6))), ("heads", Slice(heads=(4, 5))),
        ("experts", Slice(experts=(4, 5))), ("q_rows", Slice()), ("tokens", Slice(rows=(4, 5))),
    ],
)  # fmt: skip
def test_what_is_not_reached_is_told_on_its_own_axis(extent: str, part: Slice):
    launch = {"op": "x", "grid": [1], "covers": {extent: 4}, "requires": {extent: 6}}
    found = judge_coverage(launch_coverage(trace(launch, {})))
    assert found.outcome is Outcome.BROKEN
    assert found.site is not None
    assert found.site.slice == part
    assert f"2 {extent.rpartition('.')[2]} are never computed in layers 2" in found.sentence
