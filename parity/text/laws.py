"""Does what the rounds of a repeating stretch say follow from something, in their words as well as in their numbers?

A loop draws what varies at random, or goes through it in turn. A text that enumerates, simulates or keeps a score
repeats a sentence as well, and what stands in its fields is lawful. The rounds are laid into columns: what stands
between the words that all of them have. Two descriptions of the columns are held against each other by their length,
each value by itself, or some by the others; the law has to save SURE bits (odds of a thousand to one):

enumerated  no two rounds say the same, though values come again in every column (all pairs of six teams); or the
            rounds are all combinations of some values, in order (a truth table).
carried     what one column holds, another one holds in the next round (`goes to the state busy. In the state busy`).
scored      a word follows from how numbers stand to each other (`rolls a 5 and Bob a 3, so Ann wins`), or from how one
            has moved since the round before (`shows heads, which makes 4 so far`); or two numbers move, neither by
            steps of one size, and their sum does (`it is now 4 to 2 in games`).

Rounds that come again in turn, all columns at once, follow a law too, and are a loop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain, combinations, pairwise, permutations
from math import lgamma, log, log2, prod

import numpy as np

from parity.text.numbers import read_value

SURE = 10.0
"""Bits that a law has to save."""

LEAST_ROUNDS = 7
FITS = 0.9
"""Rounds that have the words that all have, and in that order; of which a law has to hold."""

MOST_COLUMNS = 12
"""Columns that are held against each other."""

LOOKED_AT = 200_000
"""Characters of a stretch that are read, from its beginning."""

LONGEST_CYCLE = 512
"""Rounds after which all may come again, and nothing is said by it."""

MOST_LINES = 4
"""Lines of one round."""

MOST_COMBINED = 2048
"""Combinations of values up to which the chance that none comes twice is worked out."""

ENUMERATED = 0.75
"""Of all combinations: the first and the last round of a stretch may be cut."""

_SENTENCES = re.compile(r"(?<=[.!?;])\s+")
_PIECES = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]|_")

Column = tuple[str, ...]


def follows_a_law(text: str) -> bool:
    """Whether the rounds of a text of lines, or of sentences, say what follows from something.

    Its first LOOKED_AT characters are read.
    False for fewer than LEAST_ROUNDS rounds, and where less than FITS of them are laid into the same columns.
    """
    columns = lay_into_columns(text[:LOOKED_AT])
    if not columns or _comes_in_turn(columns):
        return False
    return _enumerated(columns) or _carried(columns) or _scored(columns)


def lay_into_columns(text: str) -> list[Column]:
    """What stands between the words that all rounds have, of the columns in which that varies, [rounds] each."""
    lines = [line for line in text.split("\n") if line.strip()]
    parts = lines if len(lines) >= LEAST_ROUNDS else _SENTENCES.split(text.strip())
    pieces = [_PIECES.findall(part) for part in parts]
    for height in range(1, MOST_LINES + 1):
        starts = range(0, len(pieces) - height + 1, height)
        rounds = [[*chain.from_iterable(pieces[at : at + height])] for at in starts]
        fields = _fields(rounds)
        if fields:
            columns = [tuple(column) for column in zip(*fields, strict=True)]
            varying = [column for column in columns if len(set(column)) > 1]
            parted = [part for column in varying for part in _words(column)]
            return [part for column in parted for part in _digits(column) if len(set(part)) > 1][:MOST_COLUMNS]
    return []


def _fields(rounds: Sequence[Sequence[str]]) -> list[list[str]]:
    """Round by round what stands between the words of the frame; [] where the rounds have no frame in common."""
    if len(rounds) < LEAST_ROUNDS:
        return []
    counts = [Counter(one) for one in rounds]
    often: dict[str, Counter[int]] = {}
    for one in counts:
        for word, count in one.items():
            often.setdefault(word, Counter())[count] += 1
    frame = {word for word, seen in often.items() if max(seen.values()) >= FITS * len(rounds)}
    kept = [tuple(word for word in one if word in frame) for one in rounds]
    usual, times = Counter(kept).most_common(1)[0]
    if not usual or times < max(FITS * len(rounds) - 2, LEAST_ROUNDS):
        return []
    table: list[list[str]] = []
    for one, words in zip(rounds, kept, strict=True):
        if words != usual:
            continue
        gaps = [""]
        for word in one:
            if word in frame:
                gaps.append("")
            else:
                gaps[-1] = f"{gaps[-1]} {word}".lstrip()
        table.append(gaps)
    return table


def _words(column: Column) -> list[Column]:
    """The words of a column that holds the same number of them in every round; else the column itself."""
    cut = [value.split(" ") for value in column]
    if len({len(one) for one in cut}) > 1:
        return [column]
    return [tuple(one) for one in zip(*cut, strict=True)]


def _digits(column: Column) -> list[Column]:
    """The digits of a code of one length that has leading zeros; else the column itself."""
    width = len(column[0])
    coded = all(len(value) == width and value.isdecimal() for value in column)
    if width > 1 and coded and any(value[0] == "0" for value in column):
        return [tuple(value[at] for value in column) for at in range(width)]
    return [column]


def _comes_in_turn(columns: Sequence[Column]) -> bool:
    numbers: dict[Column, int] = {}
    rounds = np.array([numbers.setdefault(one, len(numbers)) for one in zip(*columns, strict=True)])
    lags = range(1, min(len(rounds) // 2, LONGEST_CYCLE) + 1)
    return any(bool(np.mean(rounds[lag:] == rounds[:-lag]) >= FITS) for lag in lags)


def _enumerated(columns: Sequence[Column]) -> bool:
    """No two rounds say the same in columns of which each holds values that come again."""
    key = [column for column in columns if 2 * len(set(column)) <= len(column) and len(set(column)) > 1]
    if not key or len(set(zip(*key, strict=True))) < len(key[0]):
        return False
    tried = len(key)
    for column in reversed(list(key)):  # what follows from the others says nothing of its own
        rest = [one for one in key if one is not column]
        if rest and len(set(zip(*rest, strict=True))) == len(column):
            key = rest
    if len(key) < 2:
        return False
    return -log2(max(_none_twice(key), 1e-300)) >= SURE + tried or _in_order(key)


def _none_twice(key: Sequence[Column]) -> float:
    """Chance that no two rounds say the same, were every column drawn for itself from the values that it has; 1 where
    these are more than MOST_COMBINED combinations."""
    rounds, sizes = len(key[0]), [len(set(column)) for column in key]
    if prod(sizes) > MOST_COMBINED:
        return 1.0
    cells = np.ones(1)
    for column in key:
        cells = np.outer(cells, [count / rounds for count in Counter(column).values()]).ravel()
    # k! times the k-th elementary symmetric polynomial of the chances of all combinations.
    chance, order = np.zeros(rounds + 1), np.arange(1, rounds + 1)
    chance[0] = 1.0
    for cell in cells.tolist():
        chance[1:] += order * cell * chance[:-1]
    return float(chance[rounds])


def _in_order(key: Sequence[Column]) -> bool:
    """Whether the rounds are all combinations of the values of the columns, counted up as numbers are."""
    sizes = [len(set(column)) for column in key]
    ranks = [{value: at for at, value in enumerate(dict.fromkeys(column))} for column in key]
    rounds = list(
        zip(*([rank[value] for value in column] for rank, column in zip(ranks, key, strict=True)), strict=True)
    )
    if len(rounds) < ENUMERATED * prod(sizes):
        return False
    saved = lgamma(len(rounds) + 1) / log(2) - sum(lgamma(size + 1) / log(2) for size in sizes)
    upwards = all(a < b for a, b in pairwise(rounds)) or all(a[::-1] < b[::-1] for a, b in pairwise(rounds))
    return upwards and saved >= SURE


def _carried(columns: Sequence[Column]) -> bool:
    """What one column holds, another one holds in the next round, and not what it held itself."""
    for a, b in permutations(columns, 2):
        moves = [(old, new, there) for old, new, there in zip(a, a[1:], b, strict=False) if there != old or new != old]
        held = sum(new == there for _, new, there in moves)
        if moves and held >= FITS * len(moves) and _arrangements(a) - 2 * (len(moves) - held) * log2(len(a)) >= SURE:
            return True
    return False


def _scored(columns: Sequence[Column]) -> bool:
    """A word follows from the order of two numbers, or from how they have moved."""
    numbers = [values for column in columns if (values := _values(column)) is not None]
    words = [column for column in columns if _values(column) is None]
    causes: list[list[object]] = []
    if any(_keep_a_score(a, b) for a, b in combinations(numbers, 2)):
        return True
    for a, b in combinations(numbers, 2):
        causes.append([(x > y) - (x < y) for x, y in zip(a, b, strict=True)])
    moved = [[round(y - x, 9) for x, y in pairwise(a)] for a in numbers]
    causes += [[None, *steps] for steps in moved]
    causes += [[None, *zip(*both, strict=True)] for both in combinations(moved, 2)]
    return any(_saved(word, cause) >= SURE + log2(len(causes) * len(words)) for word in words for cause in causes)


def _keep_a_score(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the sum of two numbers moves by one step in every round, and neither of them does."""
    sums = [x + y for x, y in zip(a, b, strict=True)]
    return _usual_step(sums) >= FITS and max(_usual_step(a), _usual_step(b)) < FITS and len(set(a)) > 2 < len(set(b))


def _usual_step(values: Sequence[float]) -> float:
    """Share of the rounds that move a number by what most of them do."""
    steps = [round(y - x, 9) for x, y in pairwise(values)]
    return Counter(steps).most_common(1)[0][1] / len(steps)


def _saved(effect: Sequence[str], cause: Sequence[object]) -> float:
    """Bits by which the effect is shorter told by its cause; a first round without one is told by itself."""
    pairs = [(x, y) for x, y in zip(cause, effect, strict=True) if x is not None]
    told = Counter(pairs)
    usual: dict[object, str] = {}
    for (x, y), _ in told.most_common():
        usual.setdefault(x, y)
    effects = Counter(y for _, y in pairs)
    if len(usual) < 2 or len(effects) < 2:
        return 0.0
    wrong = sum(usual[x] != y for x, y in pairs)
    table = len(usual) * log2(len(effects))
    return _arrangements([y for _, y in pairs]) - table - wrong * log2(len(pairs) * len(effects))


def _arrangements(values: Sequence[str]) -> float:
    """Bits that say in which order values stand of which the numbers are known."""
    return (lgamma(len(values) + 1) - sum(lgamma(n + 1) for n in Counter(values).values())) / log(2)


def _values(column: Column) -> list[float] | None:
    values = [read_value(value) for value in column]
    return [value for value in values if value is not None] if all(value is not None for value in values) else None
