"""What does each metric equal, to the last corner case? Formulas over moments, nothing else.

With y the oracle, x the SUT, d = x - y, sums over the elements of a slice where both sides are finite:

    rel_l2      sqrt(dd / yy)                     0 when d is 0 throughout, inf when y is 0 throughout and d is not
    cosine      xy / sqrt(xx * yy)                1 when d is 0 throughout, else 0 when either side is 0 throughout
    norm_ratio  sqrt(xx / yy)                     1 when d is 0 throughout, inf when y is 0 throughout and x is not
    slope       xy / yy, least squares of x on y  1 when d is 0 throughout, inf when y is 0 throughout and x is not
    max_abs     largest |d|
    nonfinite   NaN and infinite elements, both sides together

A slice without a finite pair of elements has NaN for all but `nonfinite` (and 0 elements is such a slice): it was not
measured. NaN and infinity never enter a sum, on either side: equal infinities, opposite infinities and NaN on one, the
other or both sides all show up in `nonfinite` and only there, so a judge must look at `nonfinite` first.
A constant oracle is nothing special: no metric subtracts a mean. Deviations from 1 (`slope_error`, `norm_ratio_error`)
are computed from dy and dd without cancellation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parity.metrics.moments import Moments

Array = NDArray[np.float64]

METRICS = ("rel_l2", "cosine", "norm_ratio", "slope", "max_abs", "nonfinite")


def rel_l2(m: Moments) -> Array:
    """Norm of the difference over the oracle's norm."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _cases(m, np.sqrt(m.dd / m.yy), equal=0.0, zero_oracle=np.inf)


def cosine(m: Moments) -> Array:
    """Cosine of the angle between both sides, not centred; in [-1, 1]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = m.xy / (np.sqrt(m.xx) * np.sqrt(m.yy))
    value = np.where((m.xx == 0) | (m.yy == 0), 0.0, np.clip(value, -1.0, 1.0))
    return _cases(m, value, equal=1.0, zero_oracle=0.0)


def norm_ratio(m: Moments) -> Array:
    """Norm of the SUT over the norm of the oracle."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _cases(m, np.sqrt(m.xx / m.yy), equal=1.0, zero_oracle=np.inf)


def slope(m: Moments) -> Array:
    """Least-squares factor that takes the oracle to the SUT: <sut, oracle> / <oracle, oracle>."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _cases(m, m.xy / m.yy, equal=1.0, zero_oracle=np.inf)


def max_abs(m: Moments) -> Array:
    """Largest absolute difference of two elements."""
    return np.where(m.finite == 0, np.nan, m.max_abs)


def nonfinite(m: Moments) -> Array:
    """Elements that are NaN or infinite, both sides together."""
    return (m.nonfinite_oracle + m.nonfinite_sut).astype(np.float64)


def slope_error(m: Moments) -> Array:
    """|slope - 1|, as |dy| / yy."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _cases(m, np.abs(m.dy) / m.yy, equal=0.0, zero_oracle=np.inf)


def norm_ratio_error(m: Moments) -> Array:
    """|norm_ratio - 1|, from (2 dy + dd) / yy; 1 when the SUT is zero throughout."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.abs(np.expm1(0.5 * np.log1p(np.maximum((2 * m.dy + m.dd) / m.yy, -1.0))))
    return _cases(m, np.where(m.xx == 0, 1.0, value), equal=0.0, zero_oracle=np.inf)


def all_metrics(m: Moments) -> dict[str, Array]:
    """Every metric of METRICS by name, arrays of the moments' shape."""
    return {name: globals()[name](m) for name in METRICS}


def _cases(m: Moments, regular: Array, *, equal: float, zero_oracle: float) -> Array:
    value = np.where(m.dd == 0, equal, np.where(m.yy == 0, zero_oracle, regular))
    none = m.finite == 0
    return np.where(none, np.nan, value) if none.any() else value
