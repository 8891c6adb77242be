"""What was done in which order, and which claims did it refute or leave open? Rungs and hypotheses as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parity.climb import Investigation
from parity.climb.rung import RungResult, Status
from parity.climb.rungs import RUNGS
from parity.ladder.ledger import Ledger, Standing
from parity.report.quoting import plain
from parity.report.text import count

MOST_NUMBERS, MOST_IN_A_CELL = 40, 8
Rows = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Step:
    """One rung as the report tells it. status: the rung's, `withdrawn`, or `not reached`. numbers: (name, value)."""

    number: int
    name: str
    question: str
    status: str
    sentence: str
    control: str
    cost: str
    numbers: Rows
    rules_out: tuple[str, ...]
    commands: tuple[str, ...]


def tell_steps(found: Investigation, gone: Mapping[int, str]) -> Iterator[Step]:
    for rung in RUNGS:
        result = found.rung(rung.number)
        if result is None:
            yield Step(
                rung.number, rung.name, rung.question, "not reached", "It has no result yet.", "", "", (), (), ()
            )
            continue
        calls = f"{count(result.forwards, 'forward')}, {count(result.generations, 'continuation')}"
        yield Step(
            number=result.number,
            name=result.name,
            question=result.question,
            status="withdrawn" if result.number in gone else result.status.value.replace("_", " "),
            sentence=result.sentence,
            control=_control(result),
            cost=f"{result.seconds:.1f} s, {calls}",
            numbers=tuple(numbers_of(result.numbers))[:MOST_NUMBERS],
            rules_out=result.rules_out if result.status is Status.RULED_OUT else (),
            commands=result.commands,
        )


def _control(result: RungResult) -> str:
    if not result.control:
        return "none"
    healthy = result.control.get("healthy")
    state = "measured" if healthy is None else "healthy" if healthy else "NOT healthy"
    return f"{result.control.get('arm', 'control')}: {state}"


def numbers_of(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers by name, those of mappings as `name.part`, lists in one line."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from numbers_of(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in value)
        else:
            yield f"{prefix}{name}", value


def tell_refuted(ledger: Ledger) -> Iterator[tuple[Any, ...]]:
    """What it was not, each with the numbers that say so."""
    gone = ledger.withdrawn()
    for hypothesis in ledger.hypotheses:
        if ledger.standing(hypothesis.id) is not Standing.REFUTED:
            continue
        test = [test for test in ledger.tests(hypothesis.id) if test.id not in gone][-1]
        numbers = list(numbers_of(test.numbers))
        shown = "; ".join(f"{name} {plain(value)}" for name, value in numbers[:MOST_IN_A_CELL])
        more = f"; and {len(numbers) - MOST_IN_A_CELL} more" if len(numbers) > MOST_IN_A_CELL else ""
        yield hypothesis.id, hypothesis.claim, hypothesis.prediction, shown + more, "; ".join(test.rules_out)


def tell_undecided(ledger: Ledger) -> Iterator[tuple[Any, ...]]:
    """Hypotheses that stand open or inconclusive, those of people included."""
    for hypothesis in ledger.hypotheses:
        standing = ledger.standing(hypothesis.id)
        if standing in (Standing.OPEN, Standing.INCONCLUSIVE):
            tests = ledger.tests(hypothesis.id)
            left = "; ".join(tests[-1].leaves_open) if tests else "not tested yet"
            yield hypothesis.id, hypothesis.claim, f"{standing.value}, raised by {hypothesis.raised_by}", left
