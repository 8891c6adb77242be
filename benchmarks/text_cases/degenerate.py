"""Degenerate texts: loops of every kind, written before the detector they test was run on them.

Each is healthy text first (`head` tokens of it), then a loop; `start` is where the loop begins, in characters.
"""

# ruff: noqa: E501 - the texts stand as they are read

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parity.text import split_text

ROOT = Path(__file__).resolve().parents[2]
PROSE, CODE = ROOT / "LICENSE", ROOT / "fixtures" / "prompts"
"""What the loops are made of: files that do not change with the project."""


@dataclass(frozen=True)
class Degenerate:
    """name, kind (`exact`, `digits`, `labels`, `fuzzy`, `code`), the text, and the character at which its loop begins."""

    name: str
    kind: str
    text: str
    start: int


def words() -> list[str]:
    """The words of some prose."""
    return PROSE.read_text().split()


def code() -> str:
    """Some Python code."""
    return "\n".join(json.loads(path.read_text())["text"] for path in sorted(CODE.glob("document-*.json")))


def pieces(unit: str) -> list[str]:
    """Words, blanks and marks; joined again they are the same text."""
    return re.findall(r"\w+|\s+|[^\w\s]", unit)


def substituted(unit: str, rounds: int, rate: float, pool: list[str], rng: random.Random) -> str:
    """`unit` so many times over, each word of each round another one at that rate."""
    return "".join(
        rng.choice(pool) if piece.isalpha() and rng.random() < rate else piece
        for _ in range(rounds)
        for piece in pieces(unit)
    )


def exact() -> Iterator[Degenerate]:
    said = words()
    for seed, (count, late) in enumerate(((1, 0), (3, 200), (8, 50), (20, 900), (45, 0), (90, 400), (200, 100))):
        rng = random.Random(100 + seed)
        at = rng.randrange(len(said) - count - late)
        head = " ".join(said[at : at + late]) + " "
        unit = " ".join(said[at + late : at + late + count]) + " "
        yield Degenerate(f"{count} words after {late}", "exact", head + unit * max(5, 120 // count), len(head))


TEMPLATES = (
    "The answer to the question is {n}, because {m} is not the number that we want.\n",
    "We will try again with the value {m} and see if the result is better. ",
    "Let me check the number {m} once more before I give the final answer.\n",
    "Wait, that is not right, since {m} and {n} are not the same thing. ",
    "As of {n} the total number of users is about {m} in the whole world. ",
    "I am sorry, but I cannot find the item {m} in the list that you gave to me.\n",
)
LABELS = (
    "Step {k}: check that the output of the model is the same as before.\n",
    "{k}. The quality of the product is very good and the price is fair.\n",
    "Attempt {k}. The test has failed and we have to run it again.\n",
    "Note {k}: please remember to save your work before you close the file.\n",
    "Chapter {k}\n\nIn this chapter we will learn more about the history of the town.\n\n",
)


def digits() -> Iterator[Degenerate]:
    said = words()
    for at, frame in enumerate(TEMPLATES):
        rng = random.Random(200 + at)
        head = " ".join(said[at * 100 : at * 160]) + "\n"
        loop = "".join(frame.format(n=rng.randrange(100), m=rng.randrange(1000)) for _ in range(30))
        yield Degenerate(f"numbers wander {at}", "digits", head + loop, len(head))
    for at, frame in enumerate(LABELS):
        head = " ".join(said[at * 50 : at * 130]) + "\n"
        yield Degenerate(f"labels {at}", "labels", head + "".join(frame.format(k=k) for k in range(1, 31)), len(head))


def fuzzy() -> Iterator[Degenerate]:
    said = words()
    pool = sorted({word.lower() for word in said if word.isalpha()})
    for seed, (count, rate, rounds, late) in enumerate(
        (
            (2, 0.05, 60, 50), (5, 0.05, 40, 0), (5, 0.1, 40, 300), (12, 0.03, 25, 100), (12, 0.08, 25, 0),
            (30, 0.05, 14, 700), (30, 0.1, 14, 100), (60, 0.03, 10, 0), (60, 0.08, 10, 200), (110, 0.05, 7, 100),
            (110, 0.1, 7, 0), (140, 0.05, 6, 300), (140, 0.03, 5, 0), (180, 0.05, 6, 100), (210, 0.03, 6, 50),
        )
    ):  # fmt: skip
        rng = random.Random(300 + seed)
        at = rng.randrange(len(said) - count - late)
        head = " ".join(said[at : at + late]) + "\n"
        unit = " ".join(said[at + late : at + late + count]) + " "
        yield Degenerate(
            f"{count} words, {rate:.0%}, after {late}",
            "fuzzy",
            head + substituted(unit, rounds, rate, pool, rng),
            len(head),
        )


def in_code() -> Iterator[Degenerate]:
    lines = code().splitlines(keepends=True)
    pool = sorted({piece for piece in pieces(code()) if piece.isalpha()})
    for seed, (count, rate, rounds, late) in enumerate(
        (
            (1, 0.0, 40, 20), (3, 0.0, 20, 0), (8, 0.0, 8, 60), (20, 0.0, 5, 30), (6, 0.05, 12, 40), (12, 0.05, 8, 0),
            (20, 0.03, 6, 60), (20, 0.05, 6, 20), (24, 0.03, 6, 0), (24, 0.05, 5, 80),
        )
    ):  # fmt: skip
        rng = random.Random(400 + seed)
        at = rng.randrange(20, len(lines) - 200)
        unit = "".join(lines[at + late : at + late + count])
        while not unit.strip():
            at += 1
            unit = "".join(lines[at + late : at + late + count])
        head = "".join(lines[at : at + late])
        kind = "exact code" if rate == 0 else "code"
        yield Degenerate(
            f"{count} lines of code, {rate:.0%}, after {late}",
            kind,
            head + substituted(unit, rounds, rate, pool, rng),
            len(head),
        )


def drawn(count: int = 160) -> Iterator[Degenerate]:
    """Fuzzy loops of prose and of code by turns, with periods of 20 to 510 tokens, of 5 to 11 rounds and 128 tokens at
    least, in which 2 to 10 of 100 words are others."""
    prose, python = PROSE.read_text(), code()
    for seed in range(count):
        rng = random.Random(1000 + seed)
        source, kind = ((prose, "fuzzy, drawn"), (python, "code, drawn"))[seed % 2]
        period = rng.choice((20, 35, 60, 90, 140, 200, 285, 350, 430, 510))
        at = source.index("\n", rng.randrange(len(source) - 6_000)) + 1
        near = split_text(source[at : at + 20_000]).strings or ()
        head, unit = "".join(near[: (late := rng.randrange(400))]), "".join(near[late : late + period])
        pool = sorted({piece for piece in near if piece.isalpha()})
        rounds, rate = max(rng.randrange(5, 12), -(-128 // period)), rng.choice((0.02, 0.05, 0.1))
        loop = substituted(unit, rounds, rate, pool, rng)
        yield Degenerate(f"{period} tokens, {rate:.0%}, {rounds} rounds, {seed}", kind, head + loop, len(head))


def texts() -> list[Degenerate]:
    """All of them."""
    return [*exact(), *digits(), *fuzzy(), *in_code()]
