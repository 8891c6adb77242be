"""Every kind of loop is found at its start, and healthy text that repeats itself is left alone."""

from __future__ import annotations

import base64
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from parity.text import find_loop, from_ids, split_text

ROOT = Path(__file__).resolve().parent.parent.parent
PROSE = (
    "The committee met on the first day of the month, and after a long discussion about the new bridge it was decided "
    "that nobody knew enough. A surveyor would be asked to measure the valley; until then the old ferry had to do. "
)
WORDS = (ROOT / "LICENSE").read_text().split()


def some_prose(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "\n"


@pytest.mark.parametrize("period", [1, 2, 3, 7, 31, 64, 200, 512])
@pytest.mark.parametrize("before", [0, 5, 333])
def test_an_exact_loop_of_ids_is_found_at_its_start(period: int, before: int):
    rng = np.random.default_rng(period)
    unit = 100 + rng.permutation(period)
    rounds = max(5, 60 // period + 1)
    ids = np.concatenate([rng.integers(1000, 9000, before), np.tile(unit, rounds), unit[: period // 2]])
    loop = find_loop(from_ids(ids.tolist()))
    assert loop is not None
    assert (loop.kind, loop.period, loop.start, loop.to_end) == ("exact", period, before, True)
    assert loop.end == len(ids)


def test_a_loop_that_ends_again_is_found_when_it_lasts():
    rng = np.random.default_rng(0)
    head, unit, tail = rng.integers(0, 9000, 500), rng.integers(0, 9000, 30), rng.integers(0, 9000, 500)
    long = find_loop(from_ids([*head, *np.tile(unit, 20), *tail]))
    assert long is not None
    assert (long.start, long.period, long.to_end) == (500, 30, False)
    assert find_loop(from_ids([*head, *np.tile(unit, 3), *tail])) is None


def test_a_line_that_repeats_with_other_numbers():
    lines = "".join(f"Step {n}: now we check the value {n * 7 % 13} again.\n" for n in range(40))
    loop = find_loop(split_text(PROSE + lines))
    assert loop is not None
    assert loop.kind == "template"
    assert abs(loop.start - len(split_text(PROSE))) <= loop.period
    assert find_loop(split_text(PROSE + lines[: len(lines) // 8] + PROSE)) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_loop_with_changing_words(seed: int):
    rng = random.Random(seed)
    colours = ["red", "green", "blue", "grey", "pale", "dark"]
    lines = [
        f"And then the {rng.choice(colours)} fox went over the hill to look for the other side of the river again. "
        for _ in range(30)
    ]
    start = some_prose(seed, 120)
    loop = find_loop(split_text(start + "".join(lines)))
    assert loop is not None
    assert loop.kind == "fuzzy"
    assert loop.rate > 0.85
    assert abs(loop.start - len(split_text(start))) <= 3 * loop.period


def test_a_fuzzy_loop_of_a_long_period():
    rng = random.Random(5)
    paragraph = some_prose(9, 150)
    rounds = []
    for _ in range(6):
        words = paragraph.split()
        for _ in range(5):
            words[rng.randrange(len(words))] = rng.choice(["somewhat", "rather", "quite"])
        rounds.append(" ".join(words) + "\n")
    loop = find_loop(split_text(some_prose(1, 150) + "".join(rounds)))
    assert loop is not None
    assert loop.kind == "fuzzy"


POEM = """Once upon a midnight dreary, while I pondered, weak and weary,
Over many a quaint and curious volume of forgotten lore,
While I nodded, nearly napping, suddenly there came a tapping,
As of some one gently rapping, rapping at my chamber door.
"'Tis some visitor," I muttered, "tapping at my chamber door;
Only this, and nothing more."
"""
REFRAIN = "Sing hey, sing ho, the wind and the rain,\nand home we go, and home again.\n"


def verses() -> str:
    return "".join(some_prose(n, 30) + REFRAIN for n in range(12))


HEALTHY = {
    "counting to 200": ", ".join(map(str, range(1, 201))) + ".",
    "counting by lines": "\n".join(map(str, range(1, 201))),
    "counting in words": "\n".join(f"Number {n}" for n in range(1, 201)),
    "number table": "\n".join(
        "| " + " | ".join(f"{random.Random(r * 9 + c).random():.3f}" for c in range(6)) + " |" for r in range(80)
    ),
    "integer matrix": "\n".join(" ".join(str((r * c) % 10) for c in range(12)) for r in range(60)),
    "numbered list": "\n".join(f"{n}. {w} {v}" for n, (w, v) in enumerate(zip(WORDS[::3], WORDS[1::3], strict=False))),
    "bullets": "\n".join(f"- {some_prose(n, 4).strip()}" for n in range(60)),
    "assertions": "\n".join(f"    self.assertEqual(fib({n}), {n * n})" for n in range(60)),
    "array code": "\n".join(f"    a[{n}] = b[{n}] + c[{n}];" for n in range(80)),
    "handlers": "\n".join(f"registry.add(handlers.default, priority={n}, enabled=True)" for n in range(80)),
    "switch": "\n".join(f'        case {n}: return "{w}";' for n, w in enumerate(WORDS[:60])),
    "rule": "Title\n" + "=" * 80 + "\n" + "-" * 200 + "\n",
    "base64": base64.b64encode(random.Random(3).randbytes(3000)).decode(),
    "wrapped base64": "\n".join(base64.b64encode(random.Random(n).randbytes(54)).decode() for n in range(40)),
    "hex dump": "\n".join(
        f"{n * 16:08x}: " + " ".join(f"{b:02x}" for b in random.Random(n).randbytes(16)) for n in range(60)
    ),
    "poem": POEM,
    "verse with a refrain": verses(),
    "prose": "".join(some_prose(n, 400) for n in range(4)),
    "code": (ROOT / "parity" / "stages.py").read_text(),
    "empty lines": "a\n\n\n\n\n\n\n\nb\n" * 3,
    "json": "[" + ", ".join(f'{{"id": {n}, "name": "{w}"}}' for n, w in enumerate(WORDS[:80])) + "]",
    "short": "Yes.",
    "one word": "no " * 5,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_text_that_repeats_itself_is_no_loop(name: str):
    assert find_loop(split_text(HEALTHY[name])) is None


@pytest.mark.parametrize("path", sorted((ROOT / "parity").rglob("*.py"))[::6], ids=lambda path: path.stem)
def test_no_source_file_is_a_loop(path: Path):
    assert find_loop(split_text(path.read_text())) is None


def test_nothing_is_no_loop():
    assert find_loop(split_text("")) is None
    assert find_loop(from_ids([])) is None
    assert find_loop(from_ids([7])) is None


def test_time_grows_with_length_and_no_faster():
    def seconds(tokens: int) -> float:
        ids = np.random.default_rng(0).integers(0, 50_000, tokens).tolist()
        start = time.process_time()
        find_loop(from_ids(ids))
        return time.process_time() - start

    seconds(10_000)
    # Ten times the tokens: linear is 10, quadratic 100. Small texts stay in the cache, so linear may show as 20.
    assert seconds(400_000) < 40 * max(seconds(40_000), 1e-3)


def test_text_is_cut_without_loss():
    text = POEM + "x = 12; ###  \n\n\u00e9\U0001f600\udcff tab\t"
    assert split_text(text).text == text


def _names(count: int) -> list[str]:
    rng = random.Random(count)
    first, last = ("Anna", "Boris", "Chen", "Dalia", "Emeka", "Fatima"), ("Smith", "Novak", "Okafor", "Tanaka", "Kim")
    return [f"{rng.choice(first)} {rng.choice(last)}" for _ in range(count)]


def _roman(number: int) -> str:
    signs = ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
    text = ""
    for value, sign in signs:
        text, number = text + sign * (number // value), number % value
    return text


def _in_words(number: int) -> str:
    ones = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
    small = [*ones.split(), "eighteen", "nineteen"]
    if number < 20:
        return small[number - 1]
    if number < 100:
        return tens[number // 10 - 2] + (f"-{small[number % 10 - 1]}" if number % 10 else "")
    rest = f" and {_in_words(number % 100)}" if number % 100 else ""
    return f"{small[number // 100 - 1]} hundred{rest}"


def _records() -> dict[str, str]:
    rng, people = random.Random(8), _names(60)
    return {
        "csv with its header again": "".join(
            "id,name,amount\n" + "".join(f"{rng.randrange(999)},{one},{rng.random():.2f}\n" for one in people[:6])
            for _ in range(20)
        ),
        "json numbers": json.dumps([[rng.randrange(10) for _ in range(8)] for _ in range(60)]),
        "json zeros": json.dumps([0] * 150),
        "json records": json.dumps([{"id": n, "active": True, "tags": [], "of": None} for n in range(100)], indent=2),
        "json sentences": json.dumps([{"question": f"What is the capital of {one}?"} for one in people], indent=1),
        "sql": "".join(f"INSERT INTO users (id, name) VALUES ({n}, '{one}');\n" for n, one in enumerate(people)),
        "setters": "".join(
            f"  public void set{w.title()}(String value) {{\n    this.{w} = value;\n  }}\n"
            for w in sorted({w.lower() for w in WORDS if w.isalpha()})[:50]
        ),
        "zeros in C": "char a[] = {\n" + "".join("  " + ", ".join(["0x00"] * 12) + ",\n" for _ in range(6)) + "};\n",
        "log": "".join(
            f"2024-05-01 12:00:{n % 60:02d} INFO handled in {n * 7 % 90} ms by worker 3\n" for n in range(120)
        ),
        "names": "\n".join(_names(200)),
        "dna": "".join(rng.choice("ACGT") for _ in range(3000)),
        "chess": " ".join(f"{n}. {rng.choice('NBRQK')}{rng.choice('abcd')}4 e{n % 8 + 1}" for n in range(1, 120)),
        "roman": ", ".join(map(_roman, range(1, 200))),
        "chapters": "\n".join(f"Chapter {_roman(n)}" for n in range(1, 120)),
        "counting in words": ", ".join(map(_in_words, range(1, 400))),
        "counting with rules": "".join(f"{n}\n---\n" for n in range(1, 201)),
        "counting with arrows": " -> ".join(map(str, range(1, 300))),
        "fizzbuzz": "\n".join("Fizz" * (n % 3 == 0) + "Buzz" * (n % 5 == 0) or str(n) for n in range(1, 200)),
    }


@pytest.mark.parametrize("name", _records())
def test_records_and_counting_are_no_loop(name: str):
    assert find_loop(split_text(_records()[name])) is None


@pytest.mark.parametrize("unit", ["a", "!", "0", "CRE", "[", " ", "\n", "\ufffd", "的", "我不知道", "no ", ". "])
def test_a_text_that_runs_into_one_sign(unit: str):
    start = some_prose(4, 100)
    loop = find_loop(split_text(start + unit * 600))
    assert loop is not None
    assert loop.kind == "exact"
    assert loop.to_end
    assert abs(loop.start - len(split_text(start))) <= loop.period


@pytest.mark.parametrize("words", [12, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_loop_of_which_each_round_has_other_words_here_and_there(words: int, seed: int):
    rng, start = random.Random(seed), some_prose(seed, 200)
    unit = some_prose(seed + 70, words).split()
    rounds = [rng.choice(WORDS) if rng.random() < 0.05 else word for _ in range(400 // words) for word in unit]
    loop = find_loop(split_text(start + " ".join(rounds) + "\n"))
    assert loop is not None
    assert loop.kind == "fuzzy"
    assert abs(loop.start - len(split_text(start))) <= loop.period


def test_a_loop_that_begins_after_5000_tokens():
    head = some_prose(2, 3000)
    assert len(split_text(head)) > 5000
    loop = find_loop(split_text(head + some_prose(3, 9) * 30))
    assert loop is not None
    assert loop.kind == "exact"
    assert abs(loop.start - len(split_text(head))) <= loop.period
