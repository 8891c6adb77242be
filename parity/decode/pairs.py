"""Does sampling differ between two engines? Paired seeds, an interval, and a refusal to conclude from too few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.errors import UsageError
from parity.metrics.interval import CONFIDENCE

LEAST = 10
"""Pairs below which nothing is concluded. With n pairs the smallest two-sided p of a sign test is 2^(1 - n): 10 pairs
leave room for one that disagrees (p = 0.021)."""
RESAMPLES = 5000


@dataclass(frozen=True)
class PairedDifference:
    """SUT minus oracle over paired seeds.

    verdict: `differs`, `no_difference_seen` or `refused`. mean, low, high: of the difference, at the confidence asked,
    by bootstrap over pairs. sign_p: two-sided exact sign test over the pairs that differ. needed: pairs needed where it
    was refused.
    """

    verdict: str
    pairs: int
    mean: float
    low: float
    high: float
    sign_p: float
    needed: int
    sentence: str


def compare_pairs(
    oracle: Sequence[float], sut: Sequence[float], *, seed: int = 0, confidence: float = CONFIDENCE
) -> PairedDifference:
    """Compare one number a seed of both engines, the n-th of each made with the n-th seed and prompt.

    Differs when both the interval excludes 0 and the sign test is below 1 - confidence. Fewer than LEAST pairs are
    refused in the record. Raises UsageError for sides of other lengths and for numbers that are not finite.
    """
    if len(oracle) != len(sut) or not all(map(math.isfinite, [*oracle, *sut])):
        raise UsageError(
            place="paired samples",
            expected="as many finite numbers of the SUT as of the oracle, seed by seed",
            found=f"{len(oracle)} and {len(sut)}, {sum(not math.isfinite(x) for x in [*oracle, *sut])} not finite",
            next_step="Run both engines on the same prompts and seeds.",
        )
    count, nan = len(sut), math.nan
    if count < LEAST:
        text = f"Refused: {count} pairs conclude nothing about sampled text; {LEAST} are needed."
        return PairedDifference("refused", count, nan, nan, nan, nan, LEAST, text)
    difference = np.asarray(sut, np.float64) - np.asarray(oracle, np.float64)
    random = np.random.default_rng(seed)
    means = difference[random.integers(0, count, (RESAMPLES, count))].mean(1)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    p = sign_test(int((difference > 0).sum()), int((difference < 0).sum()))
    differs = (low > 0 or high < 0) and p < 1 - confidence
    mean = float(difference.mean())
    head = "Differs" if differs else "No difference seen"
    sure = f"{100 * confidence:.3g} %"
    text = (
        f"{head}: SUT minus oracle {mean:.4g}, {sure} {low:.4g} to {high:.4g} over {count} pairs, sign test p {p:.3g}."
    )
    verdict = "differs" if differs else "no_difference_seen"
    return PairedDifference(verdict, count, mean, float(low), float(high), p, 0, text)


def sign_test(more: int, less: int) -> float:
    """Two-sided exact p of `more` against `less` under equal chances; 1 for no pair that differs."""
    count = more + less
    tail = sum(math.comb(count, k) for k in range(min(more, less) + 1))
    return min(1.0, 2 * tail / 2**count)
