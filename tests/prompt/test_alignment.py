"""Hunks rebuild one sequence from the other, find small defects in long prompts, and take linear time there."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from parity.prompt.alignment import Hunk, align
from parity.prompt.folder import read_folder
from parity.prompt.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parent.parent.parent


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


def _edits(a: list[int], b: list[int]) -> int:
    """Deletions and insertions of the shortest script, by the textbook table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for k, y in enumerate(b, 1):
            before, row[k] = row[k], before if x == y else 1 + min(row[k], row[k - 1])
    return row[-1]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("letters", [2, 9])
def test_short_sequences_get_a_shortest_script(seed: int, letters: int):
    rng = random.Random(seed)
    a, b = ([rng.randrange(letters) for _ in range(rng.randrange(0, 40))] for _ in range(2))
    hunks = align(a, b)
    assert sum(hunk.edits for hunk in hunks) == _edits(a, b)
    assert rebuilt(a, b, hunks) == b


def test_long_sequences_that_differ_take_about_a_second():
    rng = random.Random(0)
    a = [rng.randrange(50_000) for _ in range(100_000)]
    changed = [rng.randrange(50_000) if rng.random() < 0.05 else one for one in a]
    # Anchors every 400 ids, and between them two values in another order: what slows a quadratic alignment most.
    noisy = [[n + 10 if n % 400 < 4 else rng.randrange(2) for n in range(100_000)] for _ in range(2)]
    for left, right in ((a, changed), (a, rng.sample(a, len(a))), tuple(noisy), (noisy[0], [0] * 100_000)):
        start = time.process_time()
        hunks = align(left, right)
        # Measured 0.1 to 0.6 s; quadratic would be minutes.
        assert time.process_time() - start < 3
        assert rebuilt(left, right, hunks) == right


def test_a_text_cut_at_control_tokens_has_the_ids_of_the_whole():
    folder = ROOT / "fixtures" / "models" / "moe-tiny"
    vocabulary = Vocabulary.read(folder, read_folder(folder).special)
    names = [*vocabulary.control.values()]
    assert vocabulary._control_pattern is not None
    rng = random.Random(1)
    for _ in range(40):
        parts = rng.choices([*names, "def f(x):\n", "   ", "\n\n", " a", "é\U0001f600", "<|im_", "|>", "0 12 "], k=20)
        text = "".join(parts)
        assert vocabulary.encode(text) == vocabulary.encode_whole(text)
        assert vocabulary.encode(text) == vocabulary.encode_whole(text)
