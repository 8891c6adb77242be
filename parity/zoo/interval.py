"""What share of the cases, and how sure is it? A rate with its Wilson interval at 95 %."""

from __future__ import annotations

from dataclasses import dataclass

from parity.metrics.interval import wilson


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
        low, high = wilson(count, of) if of else (None, None)
        return Rate(count, of, count / of if of else None, low, high)

    def line(self) -> str:
        """`7 of 9: 78 % (45 to 94 %)`."""
        if self.rate is None or self.low is None or self.high is None:
            return "no case"
        return f"{self.count} of {self.of}: {100 * self.rate:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"
