"""Launch arithmetic against true loads: what the geometry shows counts, not what the host believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.invariance import launch_coverage
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
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
