"""Climb the ladder: rung after rung in fixed order, each predicted before it runs, on the disk when it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from parity.climb.bench import Bench
from parity.climb.conclude import proved_early
from parity.climb.rung import Rung, RungResult, Status
from parity.climb.rungs import RUNGS
from parity.climb.store import RUNGS as FOLDER
from parity.climb.store import read_result, write_json
from parity.errors import ParityError
from parity.ladder.ledger import Hypothesis, Ledger, Standing
from parity.reading import read_record
from parity.records import as_json

VERDICTS = {Status.FOUND: Standing.SUPPORTED, Status.RULED_OUT: Standing.REFUTED}
"""A rung's claim by its result; anything else is inconclusive."""

Hear = Callable[[Rung, RungResult | None], None]
"""Hears of each rung as it begins (None) and ends."""


def climb(
    bench: Bench, *, skip: Collection[int] = (), only: Collection[int] = (), hear: Hear | None = None
) -> dict[int, RungResult]:
    """Run every rung that has no stored result, in order; returns all results by number.

    skip, only: rungs left out by whoever asked; they are NOT_RUN. What a rung raises makes it inconclusive, with that
    reason, and the climb goes on.
    """
    for rung in RUNGS:
        left_out = rung.number in skip or (bool(only) and rung.number not in only)
        climb_rung(bench, rung, left_out="left out by whoever asked" if left_out else "", hear=hear)
    return bench.results


def climb_rung(bench: Bench, rung: Rung, *, left_out: str = "", hear: Hear | None = None) -> RungResult:
    """Run one rung, its prediction entered before and its conclusion after, or read back the result that is stored.

    left_out: why it is not to be run, empty to run it. The result is in `bench.results` as well.
    """
    tell = hear or (lambda *_: None)
    ledger = Ledger(bench.folder)
    stored = _finished(bench.folder, rung, ledger)
    if stored is not None:
        bench.results[rung.number] = stored
        tell(rung, stored)
        return stored
    tell(rung, None)
    hypothesis = _suppose(ledger, rung)
    early = proved_early(bench.results)
    refused = any(one.verdict == "refused" for done in bench.results.values() for one in done.findings)
    why = left_out or (f"the cause was proved at {early}" if early else "")
    if refused and not why:
        why = "the engine's traces show what it does not compute unobserved: nothing can be read off them"
    result = _run(bench, rung, hypothesis, why)
    path = bench.folder / FOLDER / rung.file
    write_json(path, result)
    # What the next rungs read is what a resumed climb would read.
    result = read_record(RungResult, as_json(result), place=str(path))
    bench.results[rung.number] = result
    _conclude(ledger, rung, result, path)
    tell(rung, result)
    return result


def _run(bench: Bench, rung: Rung, hypothesis: Hypothesis, why: str) -> RungResult:
    before, start = bench.calls, time.monotonic()
    try:
        why = why or rung.obstacle(bench)
        result = rung.result(Status.NOT_RUN, why) if why else rung.run(bench)
    except Exception as error:
        # An engine may raise anything when it is run in ways that no prompt runs it; what was found before stays.
        said = str(error) if isinstance(error, ParityError) else f"{type(error).__name__}: {error}"
        result = rung.result(Status.INCONCLUSIVE, f"It could not be finished: {said}")
    after = bench.calls
    return replace(
        result,
        hypothesis=hypothesis.id,
        seconds=round(time.monotonic() - start, 3),
        forwards=after[0] - before[0],
        generations=after[1] - before[1],
    )


def _suppose(ledger: Ledger, rung: Rung) -> Hypothesis:
    """Enter the rung's claim; one that an interrupted climb entered is gone on with."""
    known = next((h for h in ledger.hypotheses if (h.raised_by, h.claim) == (author(rung), rung.claim)), None)
    return known or ledger.suppose(rung.claim, prediction=rung.prediction, raised_by=author(rung))


def _conclude(ledger: Ledger, rung: Rung, result: RungResult, path: Path) -> None:
    valid = {test.hypothesis: test.id for test in ledger.tests() if test.id not in ledger.withdrawn()}
    earlier = {h.raised_by: h.id for h in ledger.hypotheses}
    rests_on = [
        valid[earlier[author(other)]]
        for other in RUNGS
        if other.number in rung.rests_on and earlier.get(author(other)) in valid and result.ran
    ]
    ledger.conclude(
        result.hypothesis,
        VERDICTS.get(result.status, Standing.INCONCLUSIVE),
        command=result.commands[0] if result.commands else "parity investigate",
        numbers=_flat(result.numbers),
        artifacts=[path],
        rules_out=result.rules_out,
        leaves_open=result.leaves_open if result.ran else (result.sentence,),
        rests_on=rests_on,
    )


def _finished(folder: Path, rung: Rung, ledger: Ledger) -> RungResult | None:
    """The stored result of a rung, its conclusion entered where a crash came in between; None when it has to be run:
    there is none, or its evidence was withdrawn."""
    result = read_result(folder, rung)
    if result is None:
        return None
    gone = ledger.withdrawn()
    tests = ledger.tests(result.hypothesis)
    if tests and all(test.id in gone for test in tests):
        with contextlib.suppress(FileNotFoundError):
            (folder / FOLDER / rung.file).unlink()
        return None
    if not tests:
        _conclude(ledger, rung, result, folder / FOLDER / rung.file)
    return result


def author(rung: Rung) -> str:
    """Who raises a rung's hypothesis, as the ledger has it."""
    return f"rung {rung.number} {rung.name}"


def _flat(numbers: Mapping[str, object]) -> dict[str, object]:
    """The numbers that fit into a line: single ones, and short lists."""
    return {name: value for name, value in numbers.items() if not isinstance(value, Mapping) or len(value) <= 24}
