"""Which rope base and scaling do these frequencies come from? Read off what the rope kernel was told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RopeReading:
    """theta: the base that the frequencies follow, None when no base does. scaled: pairs [first, stop) that differ from
    the expected frequencies, by `ratio` (found over expected) at most and at least."""

    theta: float | None
    scaled: tuple[int, int] | None = None
    ratio: tuple[float, float] = (1.0, 1.0)


def tolerance(theta: float) -> float:
    """Largest relative error of theta^(-2i/K) computed in fp32.

    The exponent carries a relative rounding of 2^-24, worth ln(theta) * 2^-24 of the result; powf and the stored result
    add at most 2^-23 each. Twice that, since either side may have it.
    """
    return 2 * (math.log(theta) * 2.0**-24 + 2.0**-22)


def read_frequencies(inv_freq: Sequence[float], expected_theta: float) -> RopeReading:
    """Read [K/2] frequencies of pairs; the expected ones are theta^(-2i/K), Su et al. 2021, arXiv 2104.09864, eq. 15.

    One pair alone (K = 2) turns once a position under any base: nothing is told apart, and the reading is the expected.
    """
    count = len(inv_freq)
    expected = [expected_theta ** (-i / count) for i in range(count)]
    ratios = [found / want for found, want in zip(inv_freq, expected, strict=True)]
    allowed = tolerance(expected_theta)
    off = [i for i, ratio in enumerate(ratios) if not abs(ratio - 1) <= allowed]
    if not off:
        return RopeReading(expected_theta)
    spread = (min(ratios), max(ratios))
    if inv_freq[0] > 0 and inv_freq[-1] > 0 and count > 1 and abs(inv_freq[0] - 1) <= allowed:
        theta = inv_freq[-1] ** (-count / (count - 1))
        if theta > 1 and all(
            abs(found * theta ** (i / count) - 1) <= 2 * tolerance(theta) for i, found in enumerate(inv_freq)
        ):
            return RopeReading(theta, (off[0], off[-1] + 1), spread)
    return RopeReading(None, (off[0], off[-1] + 1), spread)
