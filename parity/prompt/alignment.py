"""Where do two sequences of ids differ? Hunks, in time near linear in the length for long prompts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.prompt.subsequence import matching_blocks

SMALL = 16_000_000
"""Product of lengths up to which a stretch is aligned exactly: 4,000 ids against 4,000, 2 MB of bits."""

GRAM = 4
"""Ids in a row that serve as an anchor where they occur once on each side."""

MIX = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: Knuth's multiplicative hashing."""


@dataclass(frozen=True)
class Hunk:
    """A stretch that differs: ids a:b of the reference stand where the SUT has ids c:d; one of both may be empty."""

    reference: tuple[int, int]
    sut: tuple[int, int]

    @property
    def edits(self) -> int:
        """Ids to be deleted and inserted."""
        return (self.reference[1] - self.reference[0]) + (self.sut[1] - self.sut[0])


def align(reference: Sequence[int], sut: Sequence[int]) -> tuple[Hunk, ...]:
    """The hunks in which both differ, in order; none when they are equal.

    What is equal at both ends is set aside; in between, grams that occur once on each side are anchors (patience diff),
    and between two anchors the hunks are those of the longest common subsequence, or one hunk where SMALL is exceeded.
    """
    a, b = list(reference), list(sut)
    hunks: list[Hunk] = []
    _align(a, b, 0, 0, hunks)
    return tuple(_joined(hunks))


def _align(a: list[int], b: list[int], at: int, bt: int, hunks: list[Hunk]) -> None:
    start = _same_start(a, b)
    end = _same_end(a, b, start)
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    at, bt = at + start, bt + start
    if not a and not b:
        return
    if a and b and max(len(a), len(b)) > 1 and len(a) * len(b) <= SMALL:
        i = k = 0
        for j, m, length in (*matching_blocks(a, b), (len(a), len(b), 0)):
            if j > i or m > k:
                hunks.append(Hunk((at + i, at + j), (bt + k, bt + m)))
            i, k = j + length, m + length
        return
    anchors = _anchors(a, b) if min(len(a), len(b)) >= GRAM else []
    if not anchors:
        hunks.append(Hunk((at, at + len(a)), (bt, bt + len(b))))
        return
    i = k = 0
    for j, m in [*anchors, (len(a), len(b))]:
        if j < i or m < k:  # inside the stretch that the anchor before it has taken
            continue
        _align_between(a[i:j], b[k:m], at + i, bt + k, hunks)
        i, k = j, m
        while i < len(a) and k < len(b) and a[i] == b[k]:
            i, k = i + 1, k + 1


def _align_between(a: list[int], b: list[int], at: int, bt: int, hunks: list[Hunk]) -> None:
    if len(a) * len(b) <= SMALL:
        _align(a, b, at, bt, hunks)
    elif a or b:
        hunks.append(Hunk((at, at + len(a)), (bt, bt + len(b))))


def _anchors(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    """Places (in a, in b) of grams that occur once on each side, the longest run that rises on both."""
    left, right = _once(a), _once(b)
    _, first, second = np.intersect1d(left[0], right[0], assume_unique=True, return_indices=True)
    places = np.stack((left[1][first], right[1][second]), 1)
    # Keys are 64-bit hashes: what they pair is looked at once more.
    x, y = np.asarray(a), np.asarray(b)
    same = np.all([x[places[:, 0] + n] == y[places[:, 1] + n] for n in range(GRAM)], axis=0)
    pairs = [(i, k) for i, k in places[same][np.argsort(places[same, 0])].tolist()]
    tails: list[int] = []
    last: list[int] = []
    before = [-1] * len(pairs)
    for number, (_, place) in enumerate(pairs):
        length = bisect_left(tails, place)
        before[number] = last[length - 1] if length else -1
        if length == len(tails):
            tails.append(place)
            last.append(number)
        else:
            tails[length], last[length] = place, number
    chain = []
    number = last[-1] if last else -1
    while number >= 0:
        chain.append(pairs[number])
        number = before[number]
    return chain[::-1]


def _once(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the grams that occur once, in rising order, and where."""
    values = np.asarray(ids, np.uint64)
    total = len(ids) - GRAM + 1
    key = np.zeros(total, np.uint64)
    for n in range(GRAM):
        key = (key + values[n : n + total] + np.uint64(n + 1)) * MIX
        key ^= key >> np.uint64(29)
    keys, places, counts = np.unique(key, return_index=True, return_counts=True)
    return keys[counts == 1], places[counts == 1]


def _same_start(a: Sequence[int], b: Sequence[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _same_end(a: Sequence[int], b: Sequence[int], start: int) -> int:
    most = min(len(a), len(b)) - start
    return next(
        (n for n, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if n >= most or x != y), most
    )


def _joined(hunks: list[Hunk]) -> list[Hunk]:
    """Hunks that touch on both sides as one."""
    joined: list[Hunk] = []
    for hunk in hunks:
        if joined and joined[-1].reference[1] == hunk.reference[0] and joined[-1].sut[1] == hunk.sut[0]:
            before = joined.pop()
            hunk = Hunk((before.reference[0], hunk.reference[1]), (before.sut[0], hunk.sut[1]))
        joined.append(hunk)
    return joined
