"""What repeats itself and is healthy: songs, data, code, logs; and the loops that look like them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from parity.text import find_loop, split_text

WORDS = (Path(__file__).resolve().parents[2] / "LICENSE").read_text().split()
PLAIN = sorted({w.lower() for w in WORDS if w.isalpha()})


def prose(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(PLAIN, k=words)).capitalize() + "."


def bottles() -> str:
    verse = (
        "{0} bottles of beer on the wall, {0} bottles of beer.\n"
        "Take one down and pass it around, {1} bottles of beer on the wall.\n\n"
    )
    last = "1 bottle of beer on the wall, 1 bottle of beer.\nTake it down and pass it around, no more on the wall.\n"
    return "".join(verse.format(n, n - 1) for n in range(99, 1, -1)) + last


def macdonald() -> str:
    animals = {"cow": "moo", "pig": "oink", "duck": "quack", "horse": "neigh", "sheep": "baa", "hen": "cluck"}
    verse = (
        "Old MacDonald had a farm, E-I-E-I-O!\nAnd on that farm he had a {0}, E-I-E-I-O!\n"
        "With a {1}-{1} here and a {1}-{1} there,\nHere a {1}, there a {1}, everywhere a {1}-{1}.\n\n"
    )
    return "".join(verse.format(*pair) for pair in animals.items())


def bus() -> str:
    verse = "The {0} on the bus go {1}, {1}, {1},\nThe {0} on the bus go {1}, {1}, {1},\nAll through the town.\n\n"
    sounds = {"wheels": "round and round", "wipers": "swish swish", "horns": "beep beep", "doors": "open and shut"}
    return "".join(verse.format(*pair) for pair in sounds.items())


LANGUAGES = {
    "French": "merci", "German": "danke", "Spanish": "gracias", "Polish": "dziękuję", "Russian": "спасибо",
    "Greek": "ευχαριστώ", "Japanese": "ありがとう", "Korean": "감사합니다", "Chinese": "谢谢", "Hindi": "धन्यवाद",
    "Arabic": "شكرا", "Hebrew": "תודה", "Finnish": "kiitos", "Thai": "ขอบคุณ", "Tamil": "நன்றி", "Welsh": "diolch",
}  # fmt: skip


CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Poland": "Warsaw", "Greece": "Athens",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Portugal": "Lisbon", "Ireland": "Dublin",
    "Austria": "Vienna", "Hungary": "Budapest", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Iran": "Tehran", "Turkey": "Ankara",
}  # fmt: skip

HEALTHY = {
    "ninety-nine bottles": bottles(),
    "old macdonald": macdonald(),
    "wheels on the bus": bus(),
    "psalm": "".join(f"{prose(n, 8)[:-1]}: for his mercy endureth for ever.\n" for n in range(26)),
    "csv with a comment": "id,flag,comment\n" + "".join(f"{n},false,no comment was given\n" for n in range(100)),
    "list of truths": json.dumps([bool(n % 3) for n in range(200)]),
    "grid of nothing": json.dumps([[None] * 8] * 30, indent=1),
    "hex dump of zeros": "".join(f"{16 * n:08x}: " + "0000 " * 8 + " ................\n" for n in range(80)),
    "binary": "\n".join(f"{n:08b}" for n in range(200)),
    "multiplication": "".join(f"{a} times {b} is {a * b}.\n" for a in range(1, 13) for b in range(1, 13)),
    "primes": "".join(f"{n} is{'' if all(n % d for d in range(2, n)) else ' not'} prime.\n" for n in range(2, 150)),
    "getters": "".join(
        f'    def get_{w}(self):\n        """Return the {w} of this object."""\n        return self._{w}\n\n'
        for w in PLAIN[:60]
    ),
    "imports": "".join(f"from package.{w} import {w.title()}\n" for w in PLAIN[:200]),
    "assembler": "".join(f"    mov r{n % 8}, [rsp+{n * 8}]\n    add r{n % 8}, 1\n" for n in range(80)),
    "training log": "".join(f"Epoch {n}/100 - loss: {2 / n:.4f} - accuracy: {1 - 1 / n:.4f}\n" for n in range(1, 101)),
    "capitals": "".join(f"The capital of {country} is {city}.\n" for country, city in CAPITALS.items()),
    "thanks": "".join(f'- In {name}, "thank you" is "{word}".\n' for name, word in LANGUAGES.items()),
    "sheep": ", ".join(f"{n} sheep" for n in range(1, 201)) + ".",
    "years": "\n".join(f"In {y}, the population was {y * 31 % 9000 + 1000}." for y in range(1900, 2000)),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_no_loop_is_reported(name: str):
    assert find_loop(split_text(HEALTHY[name])) is None


def varied(seed: int, words: int, rate: float, *, end: str) -> str:
    """Rounds of one sentence in which some words are others each time."""
    rng, unit = random.Random(seed), prose(seed, words).split()
    rounds = max(5, 400 // words)
    return "".join(
        " ".join(rng.choice(PLAIN) if rng.random() < rate else word for word in unit) + end for _ in range(rounds)
    )


@pytest.mark.parametrize("end", [" ", "\n"], ids=["run on", "lines"])
@pytest.mark.parametrize("rate", [0.03, 0.08])
@pytest.mark.parametrize("words", [9, 20, 60, 120, 250])
@pytest.mark.parametrize("seed", range(2))
def test_rounds_with_other_words_are_a_loop_from_their_beginning(seed: int, words: int, rate: float, end: str):
    head = prose(seed + 50, 150) + "\n"
    loop = find_loop(split_text(head + varied(seed, words, rate, end=end)))
    assert loop is not None
    # Of a fuzzy loop the start is known to a few blocks and rounds: rounds that differ in many words come in between.
    assert abs(loop.start - len(split_text(head))) <= 4 * loop.period + 80


LOOPS = {
    "a numbered refusal": "".join(f"{n}. I am sorry, I cannot answer that question.\n" for n in range(1, 40)),
    "numbers and words": "".join(
        f"Step {n}: now we check the {random.Random(n).choice(['red', 'green', 'old'])} value of item {n * 7 % 99} "
        "again, and we find that it is still wrong.\n"
        for n in range(1, 40)
    ),
    "an open list": "[" + "null, " * 100,
    "one constant": "true " * 100,
    "a line of code": "    dir_=os.getcwd(),\n" * 30,
    "two paragraphs": "Yes, of course.\n\nI will do that now.\n\n" * 20,
    "a dialogue": "User: what is it?\nAssistant: I do not know, please tell me more.\n" * 15,
    "items": "".join(f"- The {w} is a good thing to have in the house.\n" for w in PLAIN[:40]),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_looks_like_them_is_found(name: str):
    head = prose(3, 150) + "\n"
    loop = find_loop(split_text(head + LOOPS[name]))
    assert loop is not None
    assert loop.to_end
    assert abs(loop.start - len(split_text(head))) <= 4 * loop.period + 80
