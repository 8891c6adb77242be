"""How far out is the upper tail of Student's t? Exactly, for whole degrees of freedom, without scipy."""

from __future__ import annotations

import math

from parity.errors import ValueRangeError


def upper_quantile(level: float, freedom: int) -> float:
    """t with P(T > t) = level, T of Student's distribution with `freedom` degrees.

    level: in (0, 0.5). freedom: >= 1. Accurate to about 1e-10 relative.
    """
    if not 0 < level < 0.5 or freedom < 1:
        raise ValueRangeError(
            place="Student's t quantile",
            expected="a level between 0 and 0.5 and at least one degree of freedom",
            found=f"level {level}, {freedom} degrees",
            next_step="Calibrate on more runs, or ask for another level.",
        )
    low, high = 0.0, 1.0
    while _upper_tail(high, freedom) > level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _upper_tail(middle, freedom) > level else (low, middle)
    return high


def _upper_tail(t: float, freedom: int) -> float:
    """P(T > t) by the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    cos, sin = math.cos(angle), math.sin(angle)
    if freedom == 1:
        return 0.5 - angle / math.pi
    odd = freedom % 2
    term, total = (cos, cos) if odd else (1.0, 1.0)
    for k in range(2 + odd, freedom - 1, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + sin * total) if odd else sin * total
    return (1 - inside) / 2
