"""What enumerates, simulates or keeps a score is told from a loop that draws its fields at random, or in turn."""

# ruff: noqa: E501 - the texts stand as they are read

from __future__ import annotations

import random
from itertools import permutations, product

import pytest

from benchmarks.text_cases import forms, later, notation, planted
from parity.text import find_loop, split_text
from parity.text.laws import follows_a_law, lay_into_columns

AMBIGUOUS = {"year calendar", "traffic light", "prayer beads"}
"""A block of other length each month; three lines in turn with other times; five prayers with one phrase changed."""

SILENT = forms.TEXTS | notation.TEXTS | later.TEXTS


@pytest.mark.parametrize("name", sorted(set(SILENT) - AMBIGUOUS))
def test_forms_of_more_kinds_are_no_loops(name: str):
    assert find_loop(split_text(SILENT[name]())) is None


def loops_in_fields() -> dict[str, str]:
    """Sentences whose fields are drawn at random or in turn: nothing follows from anything."""
    rng = random.Random(5)
    pick = rng.choice
    return {
        "coin": "".join(f"The coin is tossed and shows {pick(('heads', 'tails'))} once more, as we have seen.\n" for _ in range(30)),
        "roll": "".join(f"Ann rolls a {rng.randrange(6)} and Bob rolls a {rng.randrange(6)}, so {pick(('Ann', 'Bob'))} wins.\n" for _ in range(30)),
        "in turn": "".join(f"In the state {'abc'[n % 3]} the machine goes on to the state {'bca'[n % 3]} at once.\n" for n in range(30)),
        "states": "".join(f"In the state {pick('abc')} the machine goes on to the state {pick('abc')} at once.\n" for _ in range(30)),
        "formula": "".join(f"If A is {p} and B is {q} and C is {r}, then the whole is {p and q}.\n" for p, q, r in product((True, False), repeat=3)) * 3,
        "votes": "".join(f"The answer of the {pick(('first', 'last'))} question is {pick(('yes', 'no'))} and that is all.\n" for _ in range(30)),
        "numbers": "".join(f"After that it is now {rng.randrange(90)} to {rng.randrange(90)} in the games of the day.\n" for _ in range(30)),
        "numbered": "".join(f"Round {n}: the answer to the question is {pick(('yes', 'no'))} and we go on.\n" for n in range(30)),
    }  # fmt: skip


LOOPS = loops_in_fields()


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_fields_drawn_at_random_or_in_turn_are_a_loop(name: str):
    assert not follows_a_law(LOOPS[name])
    assert find_loop(split_text(LOOPS[name])) is not None


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rounds", [8, 21, 60])
def test_chance_makes_no_law(rounds: int, seed: int):
    """Of 24 texts of random fields none follows a law: each is one with a chance of a thousandth."""
    rng = random.Random(seed)
    said = ""
    for _ in range(rounds):
        a, b, c = (rng.choice(names) for names in (("red", "blue"), ("cup", "jug", "pot"), ("cold", "hot")))
        said += f"Then we saw the {a} {b} of {rng.randrange(5)} and it was {c} with {rng.randrange(40)} in it.\n"
    assert not follows_a_law(said)


@pytest.mark.parametrize("size", [5, 6, 7])
def test_all_pairs_follow_a_law_and_drawn_ones_do_not(size: int):
    teams = [f"team{letter}" for letter in "abcdefg"[:size]]
    pairs = list(permutations(teams, 2))
    rng = random.Random(size)
    rng.shuffle(pairs)
    assert follows_a_law("".join(f"Today the {a} have played against the {b}.\n" for a, b in pairs))
    drawn = [(rng.choice(teams), rng.choice(teams)) for _ in pairs]
    assert len(set(drawn)) < len(drawn)
    assert not follows_a_law("".join(f"Today the {a} have played against the {b}.\n" for a, b in drawn))


@pytest.mark.parametrize("values", [(2, 2, 2), (3, 3), (2, 5), (2, 2, 2, 2, 2)])
def test_all_combinations_in_order_follow_a_law(values: tuple[int, ...]):
    rows = list(product(*(range(n) for n in values)))
    names = ["low", "mid", "high", "top", "peak"]
    said = ["With " + " and ".join(names[at] for at in row) + " as inputs we go on." for row in rows]
    assert follows_a_law("\n".join(said))
    assert not follows_a_law("\n".join(said * 2))  # the whole table again


def test_a_law_needs_rounds_and_columns():
    assert lay_into_columns("") == []
    assert not follows_a_law("")
    assert not follows_a_law("one line of words.\n" * 40)
    assert not follows_a_law("".join(f"It is now {n} to {9 - n} here.\n" for n in (1, 3, 4)))


def test_a_score_is_one_by_what_its_numbers_do():
    rng = random.Random(9)
    a = b = 0
    said = ""
    for _ in range(18):
        won = rng.random() < 0.5
        a, b = a + won, b + (not won)
        said += f"A goal by {rng.choice(('Lee', 'Kim', 'Ray'))} makes it {a} to {b} before the break.\n"
    assert follows_a_law(said)


PLANTED = list(planted.texts())


def test_planted_loops_are_found():
    """Known limits: code of one line or two whose numbers vary is a record. Nine of 61 were missed at first sight, these
    two since wandering rounds are followed and blocks of code are told from records."""
    missed = [one.name for one in PLANTED if find_loop(split_text(one.text)) is None]
    assert {name.split(",")[0] for name in missed} <= {"digits"}
    assert len(missed) <= 2
