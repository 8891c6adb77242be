"""Do the SUT's logits stand further from the oracle's than the recipe's own noise, over a whole phase?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity.decode.growth import LEAST, block_resamples

ALLOWED = math.sqrt(2)
"""Error of its own, independent of the recipe's and as large as that, makes the ratio sqrt(2): a correct engine that
rounds elsewhere than the emulation stays near 1, and what is called an excess has added more than the recipe does."""

LEVEL = 1e-3
"""Of the positions of one prompt. A router's near-tie moves all rows that attend to its own together, which this level
does not cover: of 240 prompts of a correct BF16 engine two exceeded."""


@dataclass(frozen=True)
class Excess:
    """ratio: geometric mean over positions of the SUT's swing over the emulation's; low, high: its 99.8 % interval.

    exceeds: the whole interval is above ALLOWED.
    """

    phase: str
    ratio: float
    low: float
    high: float
    positions: int

    @property
    def exceeds(self) -> bool:
        return self.low > ALLOWED


def excess_of(phase: str, sut: NDArray[np.float64], clean: NDArray[np.float64], *, seed: int = 0) -> Excess | None:
    """The ratio over the positions of one phase, [T] root mean square swings each; None with fewer than LEAST of them.

    Positions where either is 0 or not finite are left out. Interval: blocks of consecutive positions, resampled.
    """
    used = np.isfinite(sut) & np.isfinite(clean) & (sut > 0) & (clean > 0)
    count = int(used.sum())
    if count < LEAST:
        return None
    logs = np.log(sut[used] / clean[used])
    means = logs[block_resamples(count, seed)].mean(1)
    low, high = np.exp(np.quantile(means, (LEVEL, 1 - LEVEL)))
    return Excess(phase, float(np.exp(logs.mean())), float(low), float(high), count)
