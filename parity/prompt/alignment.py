"""Where do two sequences of ids differ? Hunks, in time linear in the length for long prompts."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

SMALL = 250_000
"""Product of lengths up to which difflib, quadratic in the worst case, takes some tenths of a second."""

GRAM = 4
"""Ids in a row that serve as an anchor where they occur once on each side."""


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

    What is equal at both ends is set aside; in between, ids that occur once on each side are anchors (patience
    diff), and what lies between two anchors is aligned by difflib, or is one hunk where that is too long for it.
    """
    a, b = list(reference), list(sut)
    hunks: list[Hunk] = []
    _align(a, b, 0, 0, hunks)
    return tuple(_joined(hunks))


def _align(a: list[int], b: list[int], at: int, bt: int, hunks: list[Hunk]) -> None:
    start = _same_start(a, b)
    end = _same_start(a[start:][::-1], b[start:][::-1])
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    at, bt = at + start, bt + start
    if not a and not b:
        return
    if a and b and len(a) * len(b) <= SMALL:
        for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if tag != "equal":
                hunks.append(Hunk((at + i, at + j), (bt + k, bt + m)))
        return
    anchors = _anchors(a, b) if a and b else []
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
    pairs = sorted((left[gram], right[gram]) for gram in left.keys() & right.keys())
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


def _once(ids: list[int]) -> dict[tuple[int, ...], int]:
    grams = list(zip(*(ids[n:] for n in range(GRAM)), strict=False))
    counts = Counter(grams)
    return {gram: at for at, gram in enumerate(grams) if counts[gram] == 1}


def _same_start(a: Sequence[int], b: Sequence[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _joined(hunks: list[Hunk]) -> list[Hunk]:
    """Hunks that touch on both sides as one."""
    joined: list[Hunk] = []
    for hunk in hunks:
        if joined and joined[-1].reference[1] == hunk.reference[0] and joined[-1].sut[1] == hunk.sut[0]:
            before = joined.pop()
            hunk = Hunk((before.reference[0], hunk.reference[1]), (before.sut[0], hunk.sut[1]))
        joined.append(hunk)
    return joined
