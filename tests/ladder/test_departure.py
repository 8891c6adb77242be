"""Is a step along, against or away from the exact rows told from one in no direction, however many rows there are?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from parity.ladder.departure import FURTHER, LARGER, SMALLER, find_departure

NOISE = 0.027
"""Relative rounding error of a block-FP8 projection against exact arithmetic."""


def site(step: Any, *, rows: int = 64, width: int = 384, expert: np.ndarray | None = None, seed: int = 0) -> Any:
    """A stage of T rows, or of [T, 2] expert rows, whose SUT is the emulation plus what `step` makes of the exact."""
    g = torch.Generator().manual_seed(seed)
    shape = (rows, width) if expert is None else (rows, 2, width)
    exact = torch.randn(shape, generator=g, dtype=torch.float64)
    emulated = exact * (1 + NOISE * torch.randn(shape, generator=g, dtype=torch.float64))
    sut = emulated + step(exact, g)
    return SimpleNamespace(sut=SimpleNamespace(tensor=sut, expert=expert), oracle=exact, emulated=emulated)


def jitter(size: float):
    """As another order of sums would: of that relative size, in no direction."""
    return lambda exact, g: size * exact * torch.randn(exact.shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("rows", [1, 7, 64, 4096])
@pytest.mark.parametrize("seed", range(3))
def test_another_order_of_sums_has_no_direction(size: float, rows: int, seed: int):
    assert find_departure(site(jitter(size), rows=rows, seed=seed)) is None


@pytest.mark.parametrize(("factor", "way"), [(1.005, LARGER), (0.995, SMALLER), (1.02, LARGER)])
def test_a_scale_moves_rows_along_themselves(factor: float, way: str):
    found = find_departure(site(lambda exact, _: (factor - 1) * exact))
    assert found is not None
    assert found.way == way or (factor == 1.02 and found.way == FURTHER)
    assert found.share > 0.9


def test_a_wrong_operand_moves_rows_further():
    found = find_departure(site(jitter(0.02)))
    assert found is not None
    assert found.way == FURTHER


def test_an_expert_is_named_and_too_few_rows_are_not_enough():
    expert = np.tile(np.array([[0, 1], [2, 3]]), (32, 1))

    def one_expert(exact: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        wrong = torch.from_numpy(expert == 3)[..., None]
        return torch.where(wrong, 0.01 * exact, jitter(1e-3)(exact, g))

    found = find_departure(site(one_expert, expert=expert))
    assert found is not None
    assert found.slice == "expert 3"
    assert found.rows == 32
    assert "expert 3" in str(found)
    assert find_departure(site(lambda exact, _: 0.01 * exact, rows=5)) is None


def test_what_cannot_be_measured_has_none():
    whole = site(jitter(0.02))
    for missing in ("sut", "oracle", "emulated"):
        assert find_departure(SimpleNamespace(**{**vars(whole), missing: None})) is None  # type: ignore[arg-type]
    assert find_departure(site(jitter(0.02), rows=0)) is None
