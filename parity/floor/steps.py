"""How far is a slice from the recipe's emulation, one rounding of its heaviest element left out?

Two correct implementations of a stage that ends in a rounding to BF16 differ by a little before it, so that now and
then an element rounds the other way: by one step, 2^(k-7) for an element in [2^k, 2^(k+1)), or half of that across a
power of two. Which elements do is chance. Among many elements alike that averages out. In a row that one massive
channel carries, or a tensor that one massive row carries, a single such step is up to 2^-7 of everything, whatever
the number of rows: its chance in clean runs is too small for a spread to know it, and it is no sign of a fault.

So the largest difference of a slice, m, is left out as far as it can be one step: e = min(m, 2^-7 |y|), |y| the slice's
norm, since no element is larger. An element that moves by one step e is at most 2^8 e, and at most |y|, large. With
lever = e * min(2^8 e, |y|), what remains of the sums of a slice is at least

    sum d^2    - e^2
    |<d, y>|   - lever
    ||x| - |y||  - (lever + e^2 / 2) / |y|        (taking the step back changes |x|^2 by at most 2 lever + e^2)

Where a slice has many elements alike, e is a step of an ordinary one and nothing is lost. In a row that one element
carries, what hides behind this is below 2^-7 of the row, twice the smallest scale (`resolution`), which a gate of two
spreads has passed already. A scale error of 1.005 moves such an element by a step too: in a slice of which one element
carries nine tenths it is not told from that step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parity.metrics import Moments, norm_ratio_error, rel_l2, slope_error

Array = NDArray[np.float64]

STEP = 2.0**-7
"""Largest step of BF16 between neighbours, relative to the smaller one in magnitude."""

LEAST_STEP = 2.0**-8
"""Smallest one, relative to the larger."""


def without_a_step(moments: Moments) -> dict[str, Array]:
    """`rel_l2`, `slope` and `norm_ratio` deviations of every slice, its largest difference left out where it can be one
    step of BF16.

    What the plain deviation says of slices of zeros, of equal bits and without a finite element pair stands.
    """
    norm = np.sqrt(moments.yy)
    step = np.minimum(moments.max_abs, STEP * norm)
    lever = step * np.minimum(step / LEAST_STEP, norm)
    with np.errstate(divide="ignore", invalid="ignore"):
        less, beside = lever / moments.yy, step**2 / (2 * moments.yy)
        near = np.sqrt(np.maximum(moments.dd - step**2, 0.0) / moments.yy)
    plain = {"rel_l2": rel_l2(moments), "slope": slope_error(moments), "norm_ratio": norm_ratio_error(moments)}
    left = {"rel_l2": near, "slope": plain["slope"] - less, "norm_ratio": plain["norm_ratio"] - less - beside}
    measured = (moments.finite > 0) & (moments.yy > 0)
    return {name: np.where(measured, np.maximum(left[name], 0.0), value) for name, value in plain.items()}
