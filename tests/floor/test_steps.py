"""Is one step of BF16 in the heaviest element no sign of a fault, and everything else still one?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.floor.bins import deviations
from parity.floor.steps import STEP, without_a_step
from parity.metrics import Moments, norm_ratio_error, pair_moments, rel_l2, slope_error


def moments(y: torch.Tensor, x: torch.Tensor) -> Moments:
    return pair_moments(oracle=y, sut=x, edges=[0, y.shape[1]]).total(0)


def massive(rows: int = 64, width: int = 128, size: float = 1e4) -> torch.Tensor:
    """Rows of one norm and a single element that carries everything."""
    y = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))
    y[rows // 2, width // 3] = size
    return y.bfloat16()


def up(x: torch.Tensor, row: int, column: int, steps: int = 1) -> torch.Tensor:
    """x with one element moved away from zero by so many steps of BF16."""
    bits = x.clone().view(torch.int16)
    bits[row, column] += steps
    return bits.view(torch.bfloat16)


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 1000])
@pytest.mark.parametrize("size", [1.0, 255.0, 256.0, 1e4])
@pytest.mark.parametrize("steps", [1, -1])
def test_one_step_of_any_element_is_left_out_altogether(rows: int, size: float, steps: int):
    y = massive(rows, size=size)
    m = moments(y, up(y, rows // 2, 128 // 3, steps))
    assert rel_l2(m)[0] > 0
    # What is left is the cancellation of dd - e^2 and of the norm's second order, in fp64.
    assert all(value[0] <= 1e-8 for value in without_a_step(m).values())


def test_without_it_the_step_would_stand_far_over_a_spread_of_many_rows():
    """The case that the plain deviation gets wrong: 2^-7 of 64 rows' norm, whose scale is 2^-8 / 64 by slope."""
    y = massive(64, size=256.0 * 64)
    m = moments(y, up(y, 32, 42))
    assert slope_error(m)[0] > 20 * 2**-8 / 64
    assert without_a_step(m)["slope"][0] == 0


@pytest.mark.parametrize("rows", [64, 65, 300])
def test_a_scale_error_among_values_alike_keeps_its_size(rows: int):
    y = torch.randn(rows, 160, generator=torch.Generator().manual_seed(rows)).bfloat16()
    m = moments(y, (y.float() * 1.005).bfloat16())
    for name, plain in (("rel_l2", rel_l2), ("slope", slope_error), ("norm_ratio", norm_ratio_error)):
        assert without_a_step(m)[name][0] > 0.9 * plain(m)[0]


def test_beside_a_massive_element_a_lost_row_and_a_scale_error_of_the_rest_are_still_there():
    y = massive(64, size=300.0)
    lost = y.clone()
    lost[3] = 0
    scaled = (y.float() * 1.005).bfloat16()
    scaled[32, 42] = 300
    left = [without_a_step(moments(y, x)) for x in (lost, scaled)]
    whole = 64 * 128 + 300.0**2
    assert left[0]["rel_l2"][0] == pytest.approx((128 / whole) ** 0.5, rel=0.15)
    # Its largest difference is one of small elements here, and takes next to nothing away.
    assert left[1]["slope"][0] == pytest.approx(0.005 * 64 * 128 / whole, rel=0.2)  # some round up, some down


def test_a_scale_error_is_seen_beside_an_element_that_it_moves_by_a_step_too():
    y = massive(64, size=100.0)  # it carries half of the whole
    m = moments(y, (y.float() * 1.005).bfloat16())
    assert m.max_abs[0] == 0.5
    assert without_a_step(m)["slope"][0] > 5 * 2**-8 / 64


def test_a_wrong_element_larger_than_a_step_is_there_less_one_step():
    y = torch.ones(1, 128).bfloat16()
    x = y.clone()
    x[0, 5] = -1
    m = moments(y, x)
    assert without_a_step(m)["rel_l2"][0] == pytest.approx((4 / 128 - STEP**2) ** 0.5)
    assert without_a_step(m)["slope"][0] == pytest.approx(2 / 128 - STEP)  # of one as large as the norm


def test_zeros_equal_bits_and_nothing_keep_the_plain_answers():
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    assert without_a_step(moments(zero, one))["rel_l2"][0] == np.inf
    assert without_a_step(moments(zero, zero))["rel_l2"][0] == 0
    assert without_a_step(moments(one, one))["slope"][0] == 0
    assert np.isnan(without_a_step(moments(one, one * torch.nan))["norm_ratio"][0])
    lost = moments(one, zero)
    assert all(value[0] > 0.95 for value in without_a_step(lost).values())


def test_only_the_distance_of_stages_that_round_leaves_it_out():
    y = massive(8)
    m = moments(y, up(y, 4, 42))
    assert deviations("tensor", "moe.down", m, "distance")["rel_l2"][0] < 1e-8
    for stage, mode in (
        ("moe.down", "isolated"),
        ("moe.down", "chained"),
        ("logits", "distance"),
        ("embed.out", "distance"),
    ):
        assert deviations("tensor", stage, m, mode)["rel_l2"][0] == rel_l2(m)[0]
