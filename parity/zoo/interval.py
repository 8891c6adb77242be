"""How sure is a rate of a few cases? Its Wilson interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z = 1.959964
"""Quantile of the normal distribution for a two-sided interval at 95 % confidence."""


@dataclass(frozen=True)
class Rate:
    """count of `of` cases; rate, low, high: None where there is no case."""

    count: int
    of: int
    rate: float | None
    low: float | None
    high: float | None

    @staticmethod
    def among(count: int, of: int) -> Rate:
        low, high = wilson_interval(count, of) if of else (None, None)
        return Rate(count, of, count / of if of else None, low, high)

    def line(self) -> str:
        """`7 of 9: 78 % (45 to 94 %)`."""
        if self.rate is None or self.low is None or self.high is None:
            return "no case"
        return f"{self.count} of {self.of}: {100 * self.rate:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"


def wilson_interval(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a rate of which `count` of `of` independent cases were seen; of >= 1.

    Source: Wilson 1927, Journal of the American Statistical Association 22, the score interval. It keeps its coverage
    near 0 and 1, where the zoo's rates lie, and never leaves [0, 1].
    """
    rate, z2 = count / of, Z * Z
    middle = (rate + z2 / (2 * of)) / (1 + z2 / of)
    half = Z / (1 + z2 / of) * math.sqrt(rate * (1 - rate) / of + z2 / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)
