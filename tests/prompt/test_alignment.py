"""Hunks rebuild one sequence from the other, find small defects in long prompts, and take linear time there."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from parity.prompt.alignment import Hunk, align


def rebuilt(a: Sequence[int], b: Sequence[int], hunks: Sequence[Hunk]) -> list[int]:
    made, at = [], 0
    for hunk in hunks:
        made += a[at : hunk.reference[0]]
        made += b[slice(*hunk.sut)]
        at = hunk.reference[1]
    return [*made, *a[at:]]


@pytest.mark.parametrize("length", [0, 1, 2, 17, 499, 501, 3000])
@pytest.mark.parametrize("words", [1, 2, 5000])
def test_hunks_turn_one_sequence_into_the_other(length: int, words: int):
    draw = random.Random(length * 7 + words)
    a = [draw.randrange(words) for _ in range(length)]
    for edits in (0, 1, 5):
        b = list(a)
        for _ in range(edits):
            at = draw.randrange(len(b) + 1)
            b[at : at + draw.randrange(3)] = [draw.randrange(words) for _ in range(draw.randrange(3))]
        hunks = align(a, b)
        assert rebuilt(a, b, hunks) == b
        assert (not hunks) == (a == b)
        assert rebuilt(b, a, align(b, a)) == a


def test_nothing_in_common_and_one_side_empty():
    assert align([1, 2], [3]) == (Hunk((0, 2), (0, 1)),)
    assert align([], [3, 4]) == (Hunk((0, 0), (0, 2)),)
    assert align([3, 4], []) == (Hunk((0, 2), (0, 0)),)


def test_small_defects_in_a_long_prompt_are_found_one_by_one():
    draw = random.Random(5)
    a = [draw.randrange(30_000) for _ in range(100_000)]
    b = [7, *a[:20_000], *a[20_001:70_000], 9, 9, *a[70_000:]]
    start = time.process_time()
    hunks = align(a, b)
    # Some tenths of a second; a quadratic alignment of 10^10 pairs would take an hour.
    assert time.process_time() - start < 10
    assert rebuilt(a, b, hunks) == b
    assert [hunk.edits for hunk in hunks] == [1, 1, 2]
    assert hunks[0] == Hunk((0, 0), (0, 1))


def test_a_long_prompt_of_few_words_is_aligned_in_time():
    draw = random.Random(6)
    a = [draw.randrange(2) for _ in range(20_000)]
    b = [1 - a[0], *a[1:10_000], *a[10_007:-1], 1 - a[-1]]
    start = time.process_time()
    assert rebuilt(a, b, align(a, b)) == b
    assert time.process_time() - start < 10
