"""Forms that are filled in are told from loops with noise, by where they vary and by what their fields say."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.text_cases import degenerate, healthy, known, records
from parity.text import find_loop, from_ids, split_text
from parity.text.counting import counts_on
from parity.text.fields import read_fields

ROOT = Path(__file__).resolve().parents[2]

SILENT = {name: make for cases in (known, healthy, records) for name, make in cases.TEXTS.items()}


@pytest.mark.parametrize("name", sorted(SILENT))
def test_a_form_that_says_something_is_no_loop(name: str):
    assert find_loop(split_text(SILENT[name]())) is None


SHORT = [one for one in degenerate.texts() if not one.name.startswith("220 words")]
"""That one's period is longer than 512 tokens."""


@pytest.mark.parametrize("one", SHORT, ids=lambda one: one.name)
def test_loops_of_every_kind_are_found(one: degenerate.Degenerate):
    assert find_loop(split_text(one.text)) is not None


def filled(rounds: int, words: int, rate: float | None, *, seed: int) -> tuple[str, int]:
    """Rounds of a frame: with words anywhere that are others, or (rate None) with every fourth word a field."""
    rng = random.Random(seed)
    pool = ["".join(rng.choices("bcdfghklmnprstvw", k=5)) for _ in range(600)]
    frame = rng.sample(pool, words)
    text = ""
    for _ in range(rounds):
        varies = [n % 4 == 3 if rate is None else rng.random() < rate for n in range(words)]
        text += " ".join(rng.choice(pool) if new else word for word, new in zip(frame, varies, strict=True)) + " "
    return text, 2 * words


@pytest.mark.parametrize("words", [12, 31, 100])
@pytest.mark.parametrize("rounds", [6, 9, 25])
@pytest.mark.parametrize("seed", range(3))
def test_the_shorter_description_tells_fields_from_noise(words: int, rounds: int, seed: int):
    for rate in (None, 0.05, 0.12):
        text, period = filled(rounds, words, rate, seed=seed)
        cut = split_text(text)
        found = read_fields(cut, slice(0, len(cut)), period)
        assert found is not None
        assert (found.gain > 0) is (rate is None), (rate, found)


@pytest.mark.parametrize("lines", [6, 14, 22, 30])
@pytest.mark.parametrize("rate", [0.02, 0.05, 0.08])
def test_code_that_repeats_with_other_words_here_and_there_is_a_loop(lines: int, rate: float):
    source = (ROOT / "parity" / "stages.py").read_text().splitlines(keepends=True)
    start = next(n for n, line in enumerate(source) if line.startswith("def "))
    rng = random.Random(lines)
    unit = "".join(source[start : start + lines])
    assert len(split_text(unit)) < 512
    pool = sorted({word for word in degenerate.pieces("".join(source)) if word.isalpha()})
    head = "".join(source[:40])
    loop = find_loop(split_text(head + degenerate.substituted(unit, 6, rate, pool, rng)))
    assert loop is not None
    assert abs(loop.start - len(split_text(head))) <= 4 * loop.period + 80


def test_a_table_that_repeats_with_other_words_is_a_loop():
    source = (ROOT / "parity" / "stages.py").read_text().splitlines(keepends=True)
    start = next(n for n, line in enumerate(source) if line.strip().startswith('Term("'))
    unit, rng = "".join(source[start : start + 6]), random.Random(5)
    pool = sorted({word for word in degenerate.pieces("".join(source)) if word.isalpha()})
    loop = find_loop(split_text(degenerate.substituted(unit, 7, 0.04, pool, rng)))
    assert loop is not None
    assert find_loop(split_text("".join(source[start : start + 42]))) is None


def test_values_that_move_from_field_to_field_are_told():
    names = [f"{a}{b}" for a in ("ben", "dor", "kal", "mir") for b in ("ado", "ena", "iko", "ulo", "yra")]
    text = split_text(
        "".join(f"And {a} was the father of {b} who lived in the land of milk.\n" for a, b in pairwise(names))
    )
    found = read_fields(text, slice(0, len(text)), 29)
    assert found is not None
    assert found.carried > 0.9
    rng = random.Random(1)
    pegs = ["left", "right", "middle"]
    for draw, never in ((lambda: rng.sample(pegs, 2), True), (lambda: rng.choices(pegs, k=2), False)):
        text = split_text("".join("Move a disk from {} to {} now.\n".format(*draw()) for _ in range(30)))
        found = read_fields(text, slice(0, len(text)), 16)
        assert found is not None
        assert found.exclusive is never


def test_what_has_no_rounds_or_words_has_no_fields():
    assert read_fields(from_ids([1, 2] * 40), slice(0, 80), 2) is None
    assert read_fields(split_text("a b c "), slice(0, 6), 2) is None
    assert read_fields(split_text("say it again. " * 20), slice(0, 120), 6) is None


def test_polynomials_rests_and_quotients_are_calculated_and_noise_is_not():
    rng = np.random.default_rng(0)
    for rule in (lambda n: n * n, lambda n: n**3 + 2, lambda n: (n * n) % 7, lambda n: (11 * n + 3) // 7):
        text = "".join(f"From {n * 3} and 7 we have {n * n + n} and so {rule(n)} in all.\n" for n in range(1, 30))
        assert counts_on(text) is (rule(10) in (100, 1002))
    square = "".join(f"If it is {n} then the rest of {n * n} by 9 is {n * n % 9} in all.\n" for n in range(1, 30))
    assert counts_on(square)
    wander = "".join(f"From {a} and 7 we have {b} and so {c} in all.\n" for a, b, c in rng.integers(0, 90, (30, 3)))
    assert not counts_on(wander)
