"""A text that counts or calculates is no loop and is told; numbers that say nothing new do not save one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from parity.text import Completion, find_repetition, score_text, split_text
from parity.text.counting import counts_on
from parity.text.numbers import read_numbers

DIGITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
ONES = DIGITS.split()


def in_words(n: int) -> str:
    if n < 20:
        return ONES[n]
    tens = ("twenty", "thirty", "forty", "fifty")[n // 10 - 2]
    return tens + (f"-{ONES[n % 10]}" if n % 10 else "")


def collatz(n: int) -> Iterator[tuple[int, int]]:
    while n != 1:
        after = n // 2 if n % 2 == 0 else 3 * n + 1
        yield n, after
        n = after


FIBONACCI = [1, 1]
while len(FIBONACCI) < 40:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])
ADDED = [random.Random(n).randrange(3, 90) for n in range(40)]

COUNTING = {
    "bottles in words": "".join(
        f"{in_words(n).capitalize()} green bottles on the old wall,\n{in_words(n)} green bottles on the old wall,\n"
        f"and if one green bottle should happen to fall,\nthere'd be {in_words(n - 1)} green bottles on the old wall.\n"
        for n in range(20, 1, -1)
    ),
    "sheep": "".join(f"{n} sheep jumped over the gate into the field. " for n in range(1, 60)),
    "sheep in words": "".join(f"{in_words(n)} sheep jumped over the gate into the field. " for n in range(1, 60)),
    "kittens": "".join(f"There were {n} kittens in the basket, then one ran away. " for n in range(40, 1, -1)),
    "collatz": "".join(f"The number {a} is odd or even, so the next number is {b}.\n" for a, b in collatz(27)),
    "collatz told in two ways": " ".join(
        f"Since {a} is even, we divide it by 2 and we get {b}." if a % 2 == 0
        else f"Since {a} is odd, we multiply it by 3 and add 1 and we get {b}."
        for a, b in collatz(97)
    ),
    "fibonacci": "".join(
        f"If we add {a} and {b} we get {a + b} as the next one.\n" for a, b in pairwise(FIBONACCI)
    ),
    "a total": "".join(
        f"We add {v} to the running total of {sum(ADDED[:n])} and it becomes {sum(ADDED[: n + 1])}.\n"
        for n, v in enumerate(ADDED)
    ),
    "powers": "".join(f"Two to the power of {n} is {2**n}, which is twice as much as before.\n" for n in range(1, 40)),
    "stairs": "".join(f"After {n} steps she had climbed {n * 18} centimetres of the tower.\n" for n in range(3, 40)),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTING)
def test_what_counts_is_told_and_is_no_loop(name: str):
    found = score_text(Completion(split_text(COUNTING[name])))
    assert found.loop is None
    assert found.first_degeneration is None
    assert found.counting is not None
    assert found.counting.start <= 2 * found.counting.period


def test_lines_of_a_table_are_no_paragraph_of_it():
    lines = "".join(f"Row {k} has value {drawn(k)} and {drawn(k + 40)} in it.\n" for k in range(1, 60))
    assert find_repetition(split_text(lines)).loop is None


def drawn(k: int) -> int:
    return random.Random(k).randrange(1000)


STUCK: dict[str, Callable[[int], str]] = {
    "a label": lambda k: f"Line {k}: the quick brown fox jumps over the lazy dog.\n",
    "a number of a list": lambda k: f"{k}. I can not do that for you at this time.\n",
    "an attempt": lambda k: f"Attempt {k} failed with an error, so we will try again now. ",
    "a step of so many": lambda k: f"This is step {k} of 100 in the plan that was made for all of us.\n",
    "numbers that wander": lambda k: f"The result of the sum is {drawn(k)} and so we go on to the next.\n",
    "a label, numbers that wander": lambda k: f"Step {k}: the value is now {drawn(k)} and that is not enough.\n",
    "a short line, numbers that wander": lambda k: f"The value is {drawn(k) % 100} now.\n",
    "counts that wander": lambda k: f"There are {drawn(k)} apples on the big tree in the garden.\n",
    "counts that come again": lambda k: f"There are {k % 4 + 2} apples on the big tree in the garden.\n",
    "a label of a short line": lambda k: f"Step {k}: do it again.\n",
    "a number of a short line": lambda k: f"{k}. Use a good tool.\n",
    "a version": lambda k: f"Version 1.{k}.0: minor fixes and improvements to the stability of the system\n",
}


@pytest.mark.parametrize("name", STUCK)
def test_numbers_that_say_nothing_new_do_not_save_a_loop(name: str):
    text = "".join(STUCK[name](k) for k in range(1, 40))
    assert not counts_on(text)
    found = find_repetition(split_text(text))
    assert found.loop is not None
    assert found.loop.start <= 2 * found.loop.period
    assert found.counting is None


def test_a_count_that_gets_stuck_is_a_loop_from_there_on():
    head = COUNTING["sheep"]
    found = find_repetition(split_text(head + "60 sheep jumped over the gate into the field. " * 20))
    assert found.counting is not None
    assert found.loop is not None
    assert found.loop.kind == "exact"
    assert abs(found.loop.start - len(split_text(head))) <= found.loop.period


def test_numbers_are_read_in_digits_and_words():
    text = "In 1987 twenty-one men paid 1,250.5 and one hundred and five more; x1 v1, -4 degrees, the 3rd."
    assert [number.value for number in read_numbers(text)] == [1987, 21, 1250.5, 105, -4, 3]
    assert read_numbers("Step 3: take 4 eggs")[0].label
    assert read_numbers("Step 3: take 4 eggs")[1].counts


def named(seed: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("bdfklmnprst") + rng.choice("aeiou") for _ in range(3)).title()


def test_a_list_of_sentences_that_each_say_something_new_is_no_loop():
    litany = "".join(f"Saint {named(n)}, pray for us.\n" for n in range(40))
    elements = "".join(f"{named(n)} has the symbol {named(n + 99)} and the number {n}.\n" for n in range(40))
    assert find_repetition(split_text(litany)).loop is None
    assert find_repetition(split_text(elements)).loop is None
    # The same with a name of three is one.
    assert find_repetition(split_text("".join(f"Saint {named(n * n % 3)}, pray for us.\n" for n in range(40)))).loop


@pytest.mark.parametrize("rounds", [6, 12])
def test_technical_prose_of_which_words_vary_anywhere_is_a_loop(rounds: int):
    said = (
        "run parity_compare(a, b) with --floor derived:bfloat16 and look at out/report.json, where the first entry "
        "names the worst tensor; PARITY_CAPTURE=dir keeps what the engine wrote before it was stopped by the user "
    )
    unit = said.split()
    rng = random.Random(rounds)
    text = " ".join(named(rng.randrange(999)) if w.isalpha() and rng.random() < 0.06 else w for w in unit * rounds)
    found = find_repetition(split_text(text)).loop
    assert found is not None
    assert found.start <= 2 * found.period


def test_a_paragraph_of_which_only_a_number_changes_is_a_loop_after_five_rounds():
    unit = (
        "the committee met on the first day of the month, and after a long discussion about the new bridge it was "
        "decided that nobody knew enough; a surveyor would be asked to measure the valley, and until then the old "
        "ferry had to do what the new bridge was meant to do.\n\n"
    )
    found = find_repetition(split_text("".join(f"Part {n}. {unit}" for n in range(1, 6)))).loop
    assert found is not None
    assert (found.kind, found.start) == ("template", 0)


def test_a_fuzzy_loop_with_a_break_in_it_began_before_the_break():
    rng = random.Random(3)
    unit = "it was said again that the old ferry had to do what the new bridge was meant to do for all of us and "
    words = [named(rng.randrange(999)) if rng.random() < 0.05 else word for word in unit.split() * 40]
    words[300:330] = [named(rng.randrange(999)) for _ in range(30)]
    found = find_repetition(split_text(" ".join(words))).loop
    assert found is not None
    assert found.to_end
    assert found.start <= 2 * found.period
