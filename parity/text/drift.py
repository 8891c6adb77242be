"""Does a text end in rounds whose length is not the same, words being left out or put in? Followed from its end.

A fixed lag sees such rounds for as long as the lag holds. Here it is found where the text ends, as the distance of the
words that come again there, and then followed backwards, edit by edit: where the two rounds part, the nearest place
at which both go on with the same ANCHOR tokens is looked for, and the lag is what it is from there on (a greedy
alignment with drop-off, after Zhang, Schwartz, Wagner and Miller 2000, doi 10.1089/10665270050081478). Time is linear:
an edit costs no more than REACH^2 steps, and the score pays for each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parity.text.matches import MAX_PERIOD, ROUND_RATE

ANCHOR = 4
"""Tokens that have to agree behind an edit: two words with what stands around them."""

REACH = 10
"""Tokens that an edit may leave out of a round or put into it: five words with their blanks."""

MISS = ROUND_RATE / (1 - ROUND_RATE)
"""Of a token that does not match, in tokens that do: at ROUND_RATE the score goes neither up nor down."""

DROP = 32 * MISS
"""By which the score may fall before the loop is over: of as many tokens as a block on both sides."""

DISTANCE_SHARE = 8
"""Distances that differ by less than this part are those of one period that wanders."""


@dataclass(frozen=True)
class Trail:
    """start: first token of the first round. end: the token up to which rounds match. period: the usual lag. same: [N]
    whether each token is the one of the round before. lags: [N] how far back that stands. rate: share of `same`, the
    first round left out."""

    start: int
    end: int
    period: int
    same: NDArray[np.bool_]
    lags: NDArray[np.int64]
    rate: float


def follow_back(codes: NDArray[np.int32], most: int | None = None) -> Trail | None:
    """The rounds that a text ends in, of no more than MAX_PERIOD tokens and what they wander by; None without any.

    codes: [N]. Of fewer than 2 * ANCHOR tokens there are none. most: tokens of the end that are looked at, all by
    default.
    """
    if len(codes) < 2 * ANCHOR:
        return None
    if most is not None and most < len(codes):
        first = len(codes) - most
        trail = follow_back(codes[first:])
        return trail and replace(
            trail,
            start=trail.start + first,
            end=trail.end + first,
            same=np.pad(trail.same, (first, 0)),
            lags=np.pad(trail.lags, (first, 0), constant_values=trail.period),
        )
    keys = _keys(codes)
    last = _last_anchor(keys[-2 * MAX_PERIOD :])
    if last is None:
        return None
    at, lag = last[0] + max(len(keys) - 2 * MAX_PERIOD, 0), last[1]
    end = at + 1
    said, key = codes.tolist(), keys.tolist()
    same, lags = np.zeros(len(codes), bool), np.full(len(codes), lag, np.int64)
    edits = sorted(
        ((a, b) for a in range(REACH + 1) for b in range(REACH + 1) if a + b), key=lambda e: (max(e), sum(e))
    )
    score = best = 0.0
    start, low = end, lag
    while at >= lag and score > best - DROP:
        lags[at] = lag
        if said[at] == said[at - lag]:
            same[at] = True
            at, score = at - 1, score + 1
            if score > best:
                best, start, low = score, at + 1, lag
            continue
        back = at - lag
        skip = next(((a, b) for a, b in edits if b <= back and a <= at and key[at - a] == key[back - b]), (1, 1))
        lags[at - skip[0] : at] = lag
        at, lag, score = at - skip[0], lag - skip[0] + skip[1], score - MISS * max(skip)
        if lag < 1:
            break
    if start == end:
        return None
    same[:start] = False
    return Trail(start - low, end, int(np.median(lags[start:end])), same, lags, float(same[start:end].mean()))


def _keys(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """[N], a number for the ANCHOR tokens that end at each; those before the first such have numbers of their own."""
    keys = np.zeros(len(codes), np.uint64)
    for k in range(ANCHOR):
        shifted = np.concatenate([np.full(k, -1, np.int32), codes[: len(codes) - k]])
        keys = (keys ^ (shifted.astype(np.int64).astype(np.uint64) + np.uint64(k + 1))) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys.view(np.int64)


def _last_anchor(keys: NDArray[np.int64]) -> tuple[int, int] | None:
    """The last place whose distance to the same words before is the usual one there, and that distance."""
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    at, lag = order[again + 1], order[again + 1] - order[again]
    near = lag <= MAX_PERIOD + MAX_PERIOD // DISTANCE_SHARE
    at, lag = at[near], lag[near]
    if not len(at):
        return None
    often = np.cumsum(np.bincount(lag, minlength=int(lag.max()) * 2 + 2))
    steps = np.arange(1, int(lag.max()) + 1)
    around = np.maximum(steps // DISTANCE_SHARE, 1)
    usual = int(steps[(often[steps + around] - often[np.maximum(steps - around - 1, 0)]).argmax()])
    fits = np.abs(lag - usual) <= max(usual // DISTANCE_SHARE, 1)
    last = int(at[fits].argmax())
    return int(at[fits][last]), int(lag[fits][last])
