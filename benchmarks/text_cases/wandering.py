"""A third set of degenerate texts: rounds that wander and drift, in prose, code, JSON and markdown, some with healthy text
behind, written before the detector was run on them.

Kinds as in `planted`, and `edited`: words are left out, put in and exchanged, and what is so stays so.
"""

# ruff: noqa: E501 - the text stands as it is read

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from benchmarks.text_cases.degenerate import Degenerate, pieces, substituted
from benchmarks.text_cases.planted import drifted, renumbered, wandered
from parity.text import split_text

PROSE = (
    "Our neighbour keeps bees behind the old station, where nobody has waited for a train since the bridge fell in. Every "
    "spring he paints the hives another colour so that the swarms may know their own doors, and every autumn he forgets "
    "which of them was green. People from the town come on Sundays to buy honey and to ask about the winter. He tells "
    "them that bees do not sleep, that they hang together like a fist and shiver, and that whoever opens a hive in "
    "January has killed it. Once a woman brought him a jar that her grandmother had sealed before the war; the honey was "
    "hard as amber, he warmed it on the stove, and they ate it with bread while the snow came down over the platform. "
    "When the new road is finished he will have to move. He has looked at a meadow by the river, too wet, and at a slope "
    "above the quarry, too windy, and has asked the priest for the churchyard, which is neither. The priest is afraid of "
    "bees but more afraid of the bishop, and has promised an answer by the end of the month or of the year. "
)
CODE = '''def merge_intervals(intervals, gap=0):
    ordered = sorted(intervals, key=lambda pair: pair[0])
    merged = []
    for low, high in ordered:
        if merged and low <= merged[-1][1] + gap:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return [tuple(pair) for pair in merged]


class Inventory:
    """Goods on the shelves, and what has been promised of them."""

    def __init__(self, shelves):
        self.shelves = dict(shelves)
        self.promised = {}

    def promise(self, item, amount, customer):
        free = self.shelves.get(item, 0) - sum(self.promised.get(item, {}).values())
        if amount > free:
            raise ValueError(f"only {free} of {item} are left for {customer}")
        orders = self.promised.setdefault(item, {})
        orders[customer] = orders.get(customer, 0) + amount
        return free - amount

    def deliver(self, item, customer):
        amount = self.promised[item].pop(customer)
        self.shelves[item] -= amount
        if not self.shelves[item]:
            del self.shelves[item]
        logger.info("delivered %s of %s to %s", amount, item, customer)
        return amount
'''
JSON = json.dumps(
    {
        "order": {
            "customer": "Marta Nowak",
            "city": "Gdansk",
            "express": False,
            "note": "leave it at the back door please",
        },
        "lines": [
            {"article": "lamp", "colour": "brass", "count": 2},
            {"article": "shade", "colour": "linen", "count": 2},
        ],
        "payment": {"method": "card", "status": "open", "reminder": "sent by mail to the given address"},
        "history": ["created by web shop", "checked by clerk", "waiting for the warehouse in the north"],
    },
    indent=2,
)
MARKDOWN = """## How to set up the tent

Before you begin, make sure that the **ground is flat** and that no branches hang above it.

- Lay out the inner tent with the door *away from the wind*.
- Push the poles through the sleeves, never pull them.
- Peg the four corners, then the guy lines, then the porch.

> A tent that is pitched in a hurry comes down in the night.

Check the `knots` once more, and see [the list of parts](parts.md) if something is left over.

"""
SOURCES = {"prose": PROSE, "code": CODE, "json": JSON, "markdown": MARKDOWN}


def edited(unit: str, rounds: int, rate: float, pool: list[str], rng: random.Random) -> str:
    """Words that are left out, put in or exchanged, and stay so."""
    said, now = "", pieces(unit)
    for _ in range(rounds):
        said += "".join(now)
        then: list[str] = []
        for one in now:
            what = rng.random() / rate if one.isalpha() else 1.0
            then += (
                []
                if what < 1 / 3
                else [one, " ", rng.choice(pool)]
                if what < 2 / 3
                else [rng.choice(pool)]
                if what < 1
                else [one]
            )
        now = then
    return said


MAKERS = {"edited": edited, "wander": wandered, "fuzzy": substituted, "drift": drifted}

# kind, source, tokens of a round, rounds, share of words, tokens before
PLAN = (
    ("wander", "prose", 24, 14, 0.05, 0), ("wander", "prose", 64, 9, 0.08, 300), ("wander", "prose", 140, 7, 0.1, 80), ("wander", "prose", 260, 6, 0.06, 1200),
    ("wander", "code", 40, 9, 0.06, 100), ("wander", "code", 100, 8, 0.1, 0), ("wander", "code", 220, 6, 0.05, 500), ("wander", "json", 60, 8, 0.06, 200),
    ("wander", "json", 180, 6, 0.1, 40), ("wander", "markdown", 50, 8, 0.08, 150), ("wander", "markdown", 150, 6, 0.08, 3000), ("wander", "prose", 380, 5, 0.1, 0),
    ("edited", "prose", 28, 12, 0.04, 60), ("edited", "prose", 90, 9, 0.06, 400), ("edited", "prose", 200, 7, 0.05, 0), ("edited", "prose", 340, 6, 0.08, 900),
    ("edited", "code", 48, 9, 0.05, 0), ("edited", "code", 130, 7, 0.06, 250), ("edited", "code", 260, 6, 0.08, 50), ("edited", "json", 90, 7, 0.06, 0),
    ("edited", "json", 200, 6, 0.08, 700), ("edited", "markdown", 70, 8, 0.05, 30), ("edited", "markdown", 170, 6, 0.08, 0), ("edited", "prose", 48, 20, 0.06, 5000),
    ("fuzzy", "prose", 22, 12, 0.1, 40), ("fuzzy", "prose", 30, 9, 0.1, 500), ("fuzzy", "prose", 36, 8, 0.1, 0), ("fuzzy", "code", 26, 10, 0.1, 90),
    ("fuzzy", "json", 34, 9, 0.1, 20), ("fuzzy", "markdown", 28, 10, 0.1, 0), ("drift", "prose", 32, 10, 0.06, 1000), ("drift", "markdown", 110, 7, 0.08, 60),
)  # fmt: skip


def texts() -> Iterator[Degenerate]:
    """All 40: 32 of the plan, 4 of code or JSON in which only numbers are others, 4 with healthy text behind."""
    everything = "\n".join(SOURCES.values())
    for n, (kind, source, period, rounds, rate, late) in enumerate(PLAN):
        rng = random.Random(8100 + n)
        whole = split_text(SOURCES[source]).strings or ()
        at = rng.randrange(0, max(len(whole) - period, 1))
        unit = "".join(whole[at : at + period])
        head = _head(rng, late)
        pool = sorted({one for one in pieces(everything if n % 2 else SOURCES[source]) if one.isalpha()})
        yield Degenerate(
            f"{kind}, {period} tokens of {source}, {rate:.0%}, {rounds} rounds, after {late}",
            kind,
            head + MAKERS[kind](unit, rounds, rate, pool, rng),
            len(head),
        )
    for n, (source, period, late) in enumerate(
        (("code", 90, 50), ("json", 120, 0), ("code", 250, 400), ("json", 200, 900))
    ):
        rng = random.Random(8200 + n)
        whole = split_text(SOURCES[source]).strings or ()
        head = _head(rng, late)
        yield Degenerate(
            f"digits, {period} tokens of {source}, after {late}",
            "digits",
            head + renumbered("".join(whole[:period]), 14, 0, [], rng),
            len(head),
        )
    for n, (source, period, rounds, rate) in enumerate(
        (("prose", 30, 20, 0.0), ("markdown", 60, 12, 0.0), ("prose", 50, 12, 0.04), ("code", 80, 10, 0.04))
    ):
        rng = random.Random(8300 + n)
        whole = split_text(SOURCES[source]).strings or ()
        unit, head, tail = "".join(whole[7 : 7 + period]), _head(rng, 200), _head(rng, 250)
        pool = sorted({one for one in pieces(PROSE) if one.isalpha()})
        yield Degenerate(
            f"with a tail, {period} tokens of {source}, {rate:.0%}",
            "tail",
            head + wandered(unit, rounds, rate, pool, rng) + tail,
            len(head),
        )


def _head(rng: random.Random, tokens: int) -> str:
    """Words of the prose in an order of their own, which repeats nothing."""
    said = pieces(PROSE)
    words = [one for one in said if one.isalpha()]
    return "".join(rng.choice(words) + (". " if rng.random() < 0.08 else " ") for _ in range(tokens // 2)) + (
        "\n" if tokens else ""
    )
