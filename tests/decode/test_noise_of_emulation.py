"""The noise that an emulation shows on the same ids: by row, and no wider than its worst row."""

from __future__ import annotations

import pytest
import torch

from parity.decode.noise import noise_of_emulation, own_unit
from parity.records import Recipe

ROWS, VOCABULARY, FLIPPED = 40, 300, 7
BF16 = "bfloat16"
RECIPE = Recipe(
    "bf16", weights=BF16, activations=BF16, compute=BF16, accumulate="float32", kv_cache=BF16, residual=BF16
)


@pytest.fixture(scope="module")
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Exact arithmetic, and an emulation with small errors and one row that a router's near-tie moved as a whole."""
    drawn = torch.Generator().manual_seed(0)
    exact = torch.randn(ROWS, VOCABULARY, generator=drawn) * 3
    near = exact + 0.05 * torch.randn(ROWS, VOCABULARY, generator=drawn)
    near[FLIPPED] = exact[FLIPPED] + 0.7 * torch.randn(VOCABULARY, generator=drawn)
    return exact, near


def judged(exact: torch.Tensor, near: torch.Tensor, sut: torch.Tensor, row: int, swing: float) -> bool | None:
    noise = noise_of_emulation(near, exact, recipe=RECIPE, exact_oracle=True)
    return noise.near_tie(row, swing, own_unit(exact[row], sut[row], (0, 1)))


def test_a_row_that_the_emulation_moves_as_a_whole_is_judged_by_it(logits: tuple[torch.Tensor, torch.Tensor]):
    exact, near = logits
    assert judged(exact, near, near, FLIPPED, 2.0) is True
    # Beyond five of its own units no correct engine goes.
    assert judged(exact, near, near, FLIPPED, 8.0) is False


def test_a_row_that_the_sut_alone_moves_as_a_whole_is_not_known(logits: tuple[torch.Tensor, torch.Tensor]):
    exact, near = logits
    sut = near.clone()
    sut[3] = exact[3] + (near - exact)[FLIPPED]
    assert judged(exact, near, sut, 3, 2.0) is None
    assert judged(exact, near, sut, 3, 8.0) is False


def test_two_logits_that_move_in_a_quiet_row_are_a_fault(logits: tuple[torch.Tensor, torch.Tensor]):
    exact, near = logits
    assert judged(exact, near, near, 3, 2.0) is False
    assert judged(exact, near, near, 3, 0.1) is True
