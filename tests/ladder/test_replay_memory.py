"""Does replay hold one layer's captures at the most, or the model's?"""

from __future__ import annotations

import sys
from functools import lru_cache

import pytest
import torch

from benchmarks.replay import MODELS, WARM, Case, measure_apart, sizes_of
from parity.trace import Trace
from parity_oracles.recipes.linear import SCALED_ROWS, scale_rows


def largest_layer(trace: Trace) -> int:
    return max(size for layer, size in sizes_of(trace).items() if layer is not None)


@lru_cache(maxsize=len(MODELS))
def opened(model: str, recipe: str) -> Case:
    return Case(model, recipe)


@pytest.mark.parametrize("tokens", [512, pytest.param(1024, marks=pytest.mark.long)])
@pytest.mark.parametrize("model", MODELS, ids=[recipe for _, recipe in MODELS])
def test_replay_of_everything_asks_for_less_than_the_captures_of_one_layer(model: tuple[str, str], tokens: int):
    """Every stage of four layers and the logits, exact, emulated and judged; what torch's operations, NumPy and Python
    asked for and had not freed."""
    case = opened(*model)
    trace = case.captured(tokens)
    asked = case.count_requested(trace)
    assert 0 < sum(asked.values()) <= largest_layer(trace), asked


def test_a_replay_that_holds_its_pieces_is_caught():
    case = opened(*MODELS[0])
    trace = case.captured(WARM)
    assert case.count_requested(trace, hold=True)["tensors"] > 2 * largest_layer(trace)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
def test_resident_memory_grows_by_less_than_the_captures_of_one_layer():
    """The same by the size of the process, with what libraries ask of the system besides."""
    found = measure_apart("moe-tiny-fp8", "fp8_block", 1024, 1, count=False)
    assert found["sites_replayed"] == 87
    assert found["grew_bytes"] <= found["largest_layer_bytes"], found


@pytest.mark.parametrize("rows", [0, 1, SCALED_ROWS, SCALED_ROWS + 1])
def test_scaling_some_rows_at_a_time_changes_no_bit(rows: int):
    values = torch.Generator().manual_seed(rows)
    part = torch.randn(rows, 40, generator=values)
    row_scale, column_scale = torch.rand(rows, 1, generator=values), torch.rand(40, generator=values)
    whole = part * (row_scale * column_scale)
    assert torch.equal(scale_rows(part, row_scale, column_scale), whole)
