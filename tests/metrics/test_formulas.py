"""Does every metric take the value its documentation states, in every corner, and the right one elsewhere?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity import metrics
from parity.metrics import pair_moments

INF, NAN = float("inf"), float("nan")

# oracle row, sut row -> rel_l2, cosine, norm_ratio, slope, max_abs, nonfinite, slope_error, norm_ratio_error
CORNERS = {
    "identical": ([1, -2], [1, -2], 0, 1, 1, 1, 0, 0, 0, 0),
    "identical zeros": ([0, 0], [0, 0], 0, 1, 1, 1, 0, 0, 0, 0),
    "zero oracle": ([0, 0], [3, 4], INF, 0, INF, INF, 4, 0, INF, INF),
    "zero sut": ([3, 4], [0, 0], 1, 0, 0, 0, 4, 0, 1, 1),
    "opposite": ([3, 4], [-3, -4], 2, -1, 1, -1, 8, 0, 2, 0),
    "constant oracle": ([2, 2], [2, 2], 0, 1, 1, 1, 0, 0, 0, 0),
    "constant against doubled": ([2, 2], [4, 4], 1, 1, 2, 2, 2, 0, 1, 1),
    "orthogonal": ([1, 0], [0, 1], np.sqrt(2), 0, 1, 0, 1, 0, 1, 0),
    "inf against -inf": ([3, INF], [3, -INF], 0, 1, 1, 1, 0, 2, 0, 0),
    "inf on both": ([3, INF], [3, INF], 0, 1, 1, 1, 0, 2, 0, 0),
    "inf in oracle only": ([3, INF], [6, 1], 1, 1, 2, 2, 3, 1, 1, 1),
    "nan in oracle": ([NAN, 3], [1, 3], 0, 1, 1, 1, 0, 1, 0, 0),
    "nan in sut": ([1, 3], [NAN, 3], 0, 1, 1, 1, 0, 1, 0, 0),
    "nan on both": ([NAN, 3], [NAN, 3], 0, 1, 1, 1, 0, 2, 0, 0),
    "nothing finite": ([NAN, INF], [1, 1], NAN, NAN, NAN, NAN, NAN, 2, NAN, NAN),
    "spoilt by turns": ([NAN, 1], [1, INF], NAN, NAN, NAN, NAN, NAN, 2, NAN, NAN),
    "empty": ([], [], NAN, NAN, NAN, NAN, NAN, 0, NAN, NAN),
}
NAMES = (*metrics.METRICS, "slope_error", "norm_ratio_error")


@pytest.mark.parametrize("case", CORNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_corner(case, dtype):
    oracle, sut, *want = CORNERS[case]
    m = pair_moments(oracle=torch.tensor([oracle], dtype=dtype), sut=torch.tensor([sut], dtype=dtype)).total(axis=1)
    got = [float(getattr(metrics, name)(m)[0]) for name in NAMES]
    # Small integers: every sum is exact; a root, log1p and expm1 are each within 2^-53 or so.
    assert got == pytest.approx(want, rel=1e-14, abs=0, nan_ok=True), dict(zip(NAMES, got, strict=True))


def test_deviations_keep_their_accuracy_next_to_equality():
    """A uniform factor 1 + 2^-23 in fp32: xy - yy in fp64 sums would already be fine, but in dy it is exact."""
    oracle = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    sut = oracle.double() * (1 + 2**-40)
    m = pair_moments(oracle=oracle, sut=sut).total(axis=1)
    # 40 + 24 bits exceed fp64's 53: each product is rounded by 2^-53, 2^-13 of the factor's 2^-40.
    assert metrics.slope_error(m) == pytest.approx(2**-40, rel=2**-12)
    assert metrics.norm_ratio_error(m) == pytest.approx(2**-40, rel=2**-12)


def test_a_scale_is_seen_by_slope_and_norm_but_not_by_cosine():
    oracle = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    m = pair_moments(oracle=oracle, sut=oracle * 1.03).total(axis=1)
    # fp32 products round by 2^-24 an element; a row's mean of them cannot exceed that.
    assert metrics.slope(m) == pytest.approx(1.03, abs=1e-7)
    assert metrics.norm_ratio(m) == pytest.approx(1.03, abs=1e-7)
    assert metrics.cosine(m) == pytest.approx(1.0, abs=1e-7)


def test_all_metrics_has_exactly_the_declared_names():
    m = pair_moments(oracle=torch.ones(2, 3), sut=torch.ones(2, 3))
    assert tuple(metrics.all_metrics(m)) == metrics.METRICS
