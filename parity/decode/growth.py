"""Does the distance between two runs grow with the length of the context?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 16
"""Positions below which no slope is given: four blocks of four."""
RESAMPLES = 2000

RESOLUTION = 1e-13
"""KL below it is rounding: fp64 sums of terms p (ln p - ln q) whose logarithms reach some hundreds, times 2^-53."""


@dataclass(frozen=True)
class Growth:
    """KL ~ position^slope: slope of ln KL over ln (position + 1), with a 95 % interval.

    positions: used; zero: left out since their KL is not above RESOLUTION, or unknown. grows: all of it is above 0.
    """

    slope: float
    low: float
    high: float
    positions: int
    zero: int

    @property
    def grows(self) -> bool:
        return self.low > 0


def growth_of(kl: NDArray[np.float64], *, seed: int = 0) -> Growth | None:
    """The slope by least squares; None with fewer than LEAST positions of KL above RESOLUTION.

    kl: [T] nats by absolute position. The interval is a percentile one over resampled blocks of consecutive positions
    (length sqrt(T)), since neighbours share their context and are not independent (Kunsch 1989,
    doi 10.1214/aos/1176347265).
    """
    used = np.isfinite(kl) & (kl > RESOLUTION)
    count = int(used.sum())
    if count < LEAST:
        return None
    x, y = np.log(np.flatnonzero(used) + 1.0), np.log(kl[used])
    at = block_resamples(count, seed)
    slopes = _slopes(x[at], y[at])
    low, high = np.nanquantile(slopes, (0.025, 0.975))
    return Growth(float(_slopes(x[None], y[None])[0]), float(low), float(high), count, len(kl) - count)


def block_resamples(count: int, seed: int) -> NDArray[np.int64]:
    """[RESAMPLES, count] indices of resampled blocks of sqrt(count) consecutive positions; count at least 1."""
    block = math.isqrt(count)
    starts = np.random.default_rng(seed).integers(0, count - block + 1, (RESAMPLES, -(-count // block)))
    return (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count]


def _slopes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares slope of every row of [B, n]; NaN where all x are equal."""
    dx = x - x.mean(1, keepdims=True)
    square = (dx**2).sum(1)
    return np.where(square > 0, (dx * y).sum(1) / np.where(square > 0, square, 1.0), np.nan)
