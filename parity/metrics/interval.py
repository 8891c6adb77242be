"""How sure is a rate of a few cases? Its Wilson interval."""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.95


def wilson(count: int, of: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a rate of which `count` of `of` independent cases were seen; (0, 1) without cases.

    It keeps its coverage near 0 and 1, where rates of alarms and detections lie, and never leaves [0, 1].
    Source: Wilson 1927, the score interval, doi 10.1080/01621459.1927.10502953.
    """
    if not of:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, square = count / of, z * z / of
    centre = (rate + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(rate * (1 - rate) / of + square / (4 * of))
    return max(0.0, centre - half), min(1.0, centre + half)
