"""A second set of degenerate texts, with drift and wandering periods, written before the detector was run on them.

Each is healthy text of another source than the first set's, and then a loop of it. Kinds: `exact`; `digits`, every
number another one; `labels`, the rounds numbered; `fuzzy`, words anywhere others in each round; `drift`, a word that
changed stays changed, so that late rounds are not the first one; `wander`, now and then a word is left out or put in.
"""

# ruff: noqa: E501 - the text stands as it is read

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.text_cases.degenerate import Degenerate, pieces, substituted
from parity.text import split_text

ROOT = Path(__file__).resolve().parents[2]
HEAD_TOKENS = (0, 150, 600, 2000)
TOLD = (
    "After the rain had stopped the children went down to the river with a basket and two old dogs, looking for the boat "
    "that their uncle had tied to a willow. The water was brown and fast, and nobody had thought of bringing an oar. "
    "They sat on the bank for a while, ate what was in the basket, and argued about whose fault it was until the light "
    "began to fade behind the mill. In the kitchen their aunt was waiting with soup, dry socks and a great many questions "
    "about the dogs, the boat, the basket and the colour of their shoes. It was agreed that the river had risen, that "
    "willows are not to be trusted, and that in future anyone who wanted a boat should ask for one at breakfast. The "
    "uncle, who had slept through the whole of it, said that he had no boat and had never owned one, and went to look "
    "for his hat. Much later, when the house was sold and the mill had become a restaurant, the oldest of them found a "
    "rope on the willow, grown so deep into the bark that it could not be pulled out, and stood there for some time. "
)


def sources() -> dict[str, str]:
    """Prose, and code that none of the other texts are made of."""
    heldout = sorted((ROOT / "fixtures" / "heldout").glob("*.json"))
    return {"prose": TOLD, "code": "\n".join(json.loads(path.read_text())["text"] for path in heldout)}


def drifted(unit: str, rounds: int, rate: float, pool: list[str], rng: random.Random) -> str:
    """Words that change stay as they are from then on."""
    said, now = "", pieces(unit)
    for _ in range(rounds):
        said += "".join(now)
        now = [rng.choice(pool) if one.isalpha() and rng.random() < rate else one for one in now]
    return said


def wandered(unit: str, rounds: int, rate: float, pool: list[str], rng: random.Random) -> str:
    """Words that are left out of a round, or put into it, so that its length is not the same."""
    said: list[str] = []
    for _ in range(rounds):
        for one in pieces(unit):
            chance = rng.random() if one.isalpha() else 1.0
            said += [] if chance < rate / 2 else [one, " ", rng.choice(pool)] if chance < rate else [one]
    return "".join(said)


def renumbered(unit: str, rounds: int, rate: float, pool: list[str], rng: random.Random) -> str:
    """Some words of the unit give way to numbers, others in every round."""
    parts = pieces(unit)
    at = set(rng.sample([k for k, one in enumerate(parts) if one.isalpha()], max(1, len(parts) // 16)))
    return "".join(
        "".join(str(rng.randrange(1000)) if k in at else one for k, one in enumerate(parts)) for _ in range(rounds)
    )


MAKERS: dict[str, Callable[[str, int, float, list[str], random.Random], str]] = {
    "exact": lambda unit, rounds, rate, pool, rng: unit * rounds,
    "digits": renumbered,
    "fuzzy": substituted,
    "drift": drifted,
    "wander": wandered,
}
PERIODS = (3, 7, 16, 31, 50, 75, 120, 170, 230, 310, 400, 512)


def texts() -> Iterator[Degenerate]:
    """Every kind at every period, in prose and in code by turns; those that have no number of words are left out."""
    material = sources()
    seed = 0
    for kind, make in MAKERS.items():
        for n, period in enumerate(PERIODS):
            seed += 1
            rng = random.Random(7000 + seed)
            where = "prose" if (seed % 2 and period < 180) else "code"
            whole = split_text(material[where]).strings or ()
            said = split_text(material["prose"] + material["code"]).strings or ()
            at = rng.randrange(0, len(whole) - period)
            unit = "".join(whole[at : at + period])
            while sum(one.isalpha() for one in pieces(unit)) < 1 or (kind != "exact" and period < 7):
                if kind != "exact" and period < 7:
                    break
                at = (at + 1) % (len(whole) - period)
                unit = "".join(whole[at : at + period])
            if kind != "exact" and period < 7:
                continue
            late = HEAD_TOKENS[n % len(HEAD_TOKENS)]
            before = rng.randrange(0, max(len(said) - late, 1))
            head = "".join(said[before : before + late])
            pool = sorted({one for one in pieces(material[where]) if one.isalpha()})
            rate = (0.02, 0.05, 0.08)[seed % 3]
            least = {"exact": 48, "digits": 12 * period, "fuzzy": 128, "drift": 128, "wander": 128}[kind]
            rounds = max(rng.randrange(5, 10), -(-least // period) + 1)
            yield Degenerate(
                f"{kind}, {period} tokens of {where}, {rate:.0%}, {rounds} rounds, after {late}, {seed}",
                kind,
                head + make(unit, rounds, rate, pool, rng),
                len(head),
            )
    yield from _labelled()


def _labelled() -> Iterator[Degenerate]:
    lines = [one.strip() for one in TOLD.split(". ")]
    for n, mark in enumerate(("{k}. ", "Round {k}: ", "({k}) ", "## Part {k}\n\n", "{k}) ")):
        rng = random.Random(7900 + n)
        head = " ".join(lines[: n + 1]) + ".\n\n"
        line = rng.choice([one for one in lines if one])
        loop = "".join(mark.format(k=k) + line + ".\n" for k in range(1, 26))
        yield Degenerate(f"labels {n}", "labels", head + loop, len(head))
