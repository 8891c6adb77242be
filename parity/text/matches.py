"""At which distances does a text equal itself, and over which stretches? Matches counted in blocks, in linear time.

For every lag up to MAX_PERIOD the tokens that equal the one `lag` before are counted in blocks of BLOCK tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_PERIOD = 512
BLOCK = 16  # the matches of a block are the bits of one 16-bit word
FUZZY_RATE, ROUND_RATE = 0.85, 0.75
WANDER, WANDER_SHARE = 2, 32
SMOOTHED = 5


def count_matches(codes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """[lags, blocks]: tokens of each block of BLOCK that equal the token `lag` (1, 2, ...) before; the text's remainder
    beyond the last whole block is left to `extend`."""
    blocks = len(codes) // BLOCK
    lags = min(MAX_PERIOD, max(len(codes) - 1, 0))
    counts = np.zeros((lags, blocks), np.uint8)
    whole = blocks * BLOCK
    same = np.zeros(whole, np.uint8)
    for lag in range(1, lags + 1):
        if lag < whole:
            np.equal(codes[lag:whole], codes[: whole - lag], out=same[lag:].view(bool))
            same[:lag] = 0
            counts[lag - 1] = np.bitwise_count(np.packbits(same).view(np.uint16))
    return counts


def reach(period: int) -> int:
    """Tokens by which the period may differ from round to round."""
    return max(WANDER, period // WANDER_SHARE)


def best_nearby(counts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """For each lag and block the best of the lags around it: words that change move what follows by a few tokens."""
    best = np.empty_like(counts)
    for row in range(len(counts)):
        around = reach(row + 1)
        counts[max(row - around, 0) : row + around + 1].max(axis=0, out=best[row])
    return best


NEAR_END = 3
"""Blocks before the end up to which a stretch may go on to it: what remains of the text, one that matches in part, and
the tail that a loop cut short leaves."""


def find_stretches(
    counts: NDArray[np.uint8], rate: float, *, least: Callable[[int], float]
) -> list[tuple[int, int, int]]:
    """(period, first block, last block) of every run of at least two blocks that match at that rate and that comes near
    the end of the text, or is at least `least(period)` tokens long: a text of many records has very many others."""
    good = counts >= rate * BLOCK
    if rate < 1.0 and counts.shape[1] >= SMOOTHED:
        # A block or two that fit badly do not end a loop: of SMOOTHED blocks together the rate is asked, and of a whole
        # round ROUND_RATE, since each word that is another in one of two rounds costs up to a block.
        sums = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1, dtype=np.uint32)
        wide = sums[:, SMOOTHED:] - sums[:, :-SMOOTHED] >= rate * BLOCK * SMOOTHED
        good[:, SMOOTHED // 2 : SMOOTHED // 2 + wide.shape[1]] |= wide
        # The last window stands for its last blocks too: a word that is another there does not end the loop.
        good[:, -(SMOOTHED // 2) :] |= wide[:, -1:]
        for lag in range(len(counts)):
            span = -(-(lag + 1) // BLOCK)
            if span > SMOOTHED and counts.shape[1] >= span:
                round_ = sums[lag, span:] - sums[lag, :-span] >= ROUND_RATE * BLOCK * span
                good[lag, span // 2 : span // 2 + len(round_)] |= round_
                good[lag, span // 2 + len(round_) :] |= round_[-1]
    found = []
    for lag in np.flatnonzero((good[:, 1:] & good[:, :-1]).any(1)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], good[lag].view(np.int8), [0]])))
        runs = edges.reshape(-1, 2)
        length = runs[:, 1] - runs[:, 0]
        kept = (length >= 2) & ((length * BLOCK >= least(lag + 1)) | (runs[:, 1] >= counts.shape[1] - NEAR_END))
        found += [(lag + 1, first, stop - 1) for first, stop in runs[kept].tolist()]
    return found


def extend_back(codes: NDArray[np.int32], low: int, period: int) -> int:
    """The first token from which on all up to `low` equal the one a period before."""
    while low > period and codes[low - 1] == codes[low - 1 - period]:
        low -= 1
    return max(low, period)


def extend(codes: NDArray[np.int32], high: int, period: int) -> int:
    """The token up to which all from `high` on equal the one a period before."""
    while high < len(codes) and codes[high] == codes[high - period]:
        high += 1
    return high


@dataclass(frozen=True)
class Variation:
    """How the rounds of a loop differ. differ: tokens, of `looked_at` ones, that differ from those a period before.
    exceptions: the share of these where the rounds on both sides of the one that differs agree: 1 where now and then a
    word is another, near 0 where fields hold something new in each round; 1 where nothing differs."""

    differ: NDArray[np.int64]
    looked_at: slice
    exceptions: float


def measure_variation(codes: NDArray[np.int32], period: int) -> Variation:
    """Hold each round against the one before; the period may wander by `reach`.

    codes: [N] of the loop alone. The first two rounds and the last have too few beside them to tell, and are left out;
    of fewer than four rounds nothing is looked at.
    """
    (one, lags), (two, _) = (same_before(codes, times * period, times * reach(period)) for times in (1, 2))
    inside = slice(2 * period, max(len(codes) - period - reach(period), 2 * period))
    differ = np.flatnonzero(~one[inside]) + 2 * period
    if not len(differ):
        return Variation(differ, inside, 1.0)
    later = differ + lags[differ + period]  # the token whose round before is the one that differs
    return Variation(differ, inside, float((two[differ] | two[later]).mean()))


def same_before(codes: NDArray[np.int32], lag: int, wander: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """[N], whether each token equals the one about `lag` before, and [N], the lag that suits its neighbourhood best."""
    lags = np.arange(max(lag - wander, 1), min(lag + wander, len(codes) - 1) + 1)
    table = np.zeros((len(lags), len(codes)), bool)
    for row, one in enumerate(lags.tolist()):
        table[row, one:] = codes[one:] == codes[:-one]
    sums = np.cumsum(np.pad(table, ((0, 0), (BLOCK + 1, BLOCK))), axis=1)
    best = (sums[:, 2 * BLOCK + 1 :] - sums[:, : -2 * BLOCK - 1]).argmax(0)
    return table[best, np.arange(len(codes))], lags[best]
