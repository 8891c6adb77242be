"""Do the numbers of a repeating stretch go on by a rule? Then the text counts or calculates, and is no loop.

What tells `nine sheep, ten sheep` from a template that a model is stuck in is what the numbers say. In a loop they
wander, come again, stand still, or number the rounds (`Step 3:`); in counting and calculating each round says what the
one before did not, and follows from it:

- a number that counts things goes up or down by one step (or factor) from round to round, or its steps do, or theirs
  (squares, cubes, sums of them);
- two numbers do so side by side, each in its own way (`3 steps ... 54 centimetres`);
- a round begins with the number that the one before ended in (`6 is even, next is 3. 3 is odd, next is 10.`);
- a number is the sum, difference, product, quotient or rest of two others of its round, or the square of one, and not
  the same in each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from parity.text.numbers import Number, read_numbers

MOST_SLOTS = 24
"""Numbers of one round that are told apart."""

LEAST_ROUNDS = 4
RULED = 0.9
"""Rounds of which a rule has to hold: songs end otherwise than they go on, and one number in ten may be misread."""

ORDERS = 3
"""Of differences that may be one and the same: of squares the second is, of cubes the third."""

LONGEST_CYCLE = 256
NEW = 0.5
"""Values of a number that have to be different ones: a cycle follows a rule too, and says nothing new."""

LOOKED_AT = 400_000
"""Characters of a stretch that are read, from its beginning."""


def counts_on(text: str) -> bool:
    """Whether the numbers of a repeating text follow a rule that goes on. False for a text without numbers."""
    text = text[:LOOKED_AT]
    numbers = read_numbers(text)
    if len(numbers) < LEAST_ROUNDS:
        return False
    values = np.array([number.value for number in numbers])
    if _cycles(values):
        return False
    for slots in range(1, min(MOST_SLOTS, len(numbers) // LEAST_ROUNDS) + 1):
        rounds = len(numbers) // slots
        if _ruled(values[: rounds * slots].reshape(rounds, slots), numbers[: rounds * slots]):
            return True
    return _chained(text, numbers)


def _cycles(values: NDArray[np.float64]) -> bool:
    """Whether the same numbers come again, and again."""
    return any(_most(values[lag:] == values[:-lag]) for lag in range(1, min(LONGEST_CYCLE, len(values) // 2) + 1))


def _ruled(table: NDArray[np.float64], numbers: Sequence[Number]) -> bool:
    """Whether every column of [rounds, slots] follows a rule, and one of them tells something."""
    slots = table.shape[1]
    still = [_most(_steps(column) == 0) for column in table.T]
    moving = [s for s in range(slots) if not still[s]]
    series = [s for s in moving if _progresses(table[:, s])]
    related = {s for s in moving if _carried(table, s, moving) or _calculated(table, s, moving)}
    # What is made of others may come again, as a rest does; the others, and one at least, say something new.
    new = {s for s in moving if len(np.unique(table[:, s])) >= NEW * len(table)}
    if not new or set(moving) - related - new:
        return False
    if set(moving) - set(series) - related:
        return False
    label = {s: np.mean([number.label for number in numbers[s::slots]]) >= 0.5 for s in moving}
    if any(np.mean([number.counts for number in numbers[s::slots]]) >= 0.5 for s in series):
        return True
    apart = any(not np.array_equal(table[:, a], table[:, b]) for a, b in combinations(series, 2))
    return (apart or bool(related)) and not all(label.values())


def _steps(column: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(np.diff(column), 9)


def _most(holds: NDArray[np.bool_]) -> bool:
    return bool(len(holds)) and bool(holds.mean() >= RULED)


def _progresses(column: NDArray[np.float64]) -> bool:
    """One step, or one factor, from each to the next; or the steps do so, up to the third (a polynomial)."""
    steps = _steps(column)
    for order in range(ORDERS):
        if order and len(steps) < LEAST_ROUNDS:
            break
        if _most(steps == np.median(steps)) and np.median(steps) != 0:
            return True
        steps = _steps(steps)
    if (column == 0).any():
        return False
    factors = np.round(column[1:] / column[:-1], 9)
    return _most(factors == np.median(factors)) and np.median(factors) != 1


def _carried(table: NDArray[np.float64], slot: int, moving: Sequence[int]) -> bool:
    """The number is another one of the round before."""
    return any(other != slot and _most(table[1:, slot] == table[:-1, other]) for other in moving)


def _calculated(table: NDArray[np.float64], slot: int, moving: Sequence[int]) -> bool:
    """The number is made of two others of its round, or is the square of one; one at least of them is not the same in
    every round, and the number is not simply one of them."""
    others = [s for s in range(table.shape[1]) if s != slot]
    few, want = table[: 2 * LEAST_ROUNDS, others].T, table[:, slot]
    # Few pairs agree in some rounds by chance: only those are looked at in all of them.
    for make in (np.add, np.subtract, np.multiply, np.floor_divide, np.fmod):
        with np.errstate(divide="ignore", invalid="ignore"):
            near = np.isclose(make(few[:, None], few[None]), want[: 2 * LEAST_ROUNDS], rtol=1e-6).mean(-1) > 1 / 2
            for x, y in np.argwhere(near).tolist():
                a, b = table[:, others[x]], table[:, others[y]]
                if (x == y and make is not np.multiply) or not {others[x], others[y]} & set(moving):
                    continue
                if _most(a == want) or _most(b == want):
                    continue
                if _most(np.isclose(make(a, b), want, rtol=1e-6)):
                    return True
    return False


_SENTENCE = re.compile(r"[.!?](?=\s)|\n")


def _chained(text: str, numbers: Sequence[Number]) -> bool:
    """Whether each sentence with numbers begins with the one that the sentence before ended in."""
    ends = [match.start() for match in _SENTENCE.finditer(text)]
    sentences: dict[int, list[float]] = {}
    for number, at in zip(numbers, np.searchsorted(ends, [number.at for number in numbers]), strict=True):
        sentences.setdefault(int(at), []).append(number.value)
    said = list(sentences.values())
    if len(said) < LEAST_ROUNDS:
        return False
    first, last = (np.array([one[at] for one in said]) for at in (0, -1))
    new = len(np.unique(first)) >= NEW * len(first)
    return new and _most(first[1:] == last[:-1]) and _most(first != last)
