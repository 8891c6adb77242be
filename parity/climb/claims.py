"""Somebody says what it is: can that be? Popular diagnoses and people's own, tried by what could refute them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parity.climb.bench import Bench
from parity.climb.climb import author
from parity.climb.folklore import FOLKLORE, Folklore, Judged, Results, folklore_of
from parity.climb.rungs import RUNGS
from parity.decode import ResidualScale, falsify_residual_scale
from parity.errors import ParityError
from parity.ladder.ledger import Hypothesis, Ledger, Standing
from parity.runner import Request

BRIEF = 72
RESIDUAL = "residual"
"""What a claim about the growth of the residual stream says; it alone needs the engine to be run."""

PREDICTION = "Logits of the last residual and of a hundredth of it differ in their largest, or in direction."
STANDINGS = {"refuted": Standing.REFUTED, "scale_dependent": Standing.SUPPORTED, "no_norm": Standing.SUPPORTED}
BUILT_IN, THE_CASE = "built in", "the case"
UNKNOWN = "no falsification of such a claim is known here"
AFTERWARDS = "the numbers were on record before this was predicted"


def raise_claims(bench: Bench, ledger: Ledger) -> None:
    """Enter the popular diagnoses and the case's claim, each with its prediction, before the first rung is tested.

    Where rungs were tested already only the case's claim is entered: a prediction that comes after its test is none.
    """
    known = {(one.raised_by, one.claim) for one in ledger.hypotheses}
    if not ledger.tests():
        for one in FOLKLORE:
            if (BUILT_IN, one.claim) not in known:
                ledger.suppose(one.claim, prediction=one.prediction, raised_by=BUILT_IN)
    claim = bench.case.claim
    if claim and claim not in {one.claim for one in ledger.hypotheses}:
        kind = folklore_of(claim)
        prediction = PREDICTION if RESIDUAL in claim or kind is None else kind.prediction
        ledger.suppose(claim, prediction=prediction, raised_by=THE_CASE)


def try_claims(bench: Bench, ledger: Ledger) -> dict[str, Any]:
    """Conclude every claim that stands open and is no rung's, and say what came of the case's own.

    `claim_refuted` is None where nothing here can try it. A popular diagnosis is judged by the rungs' numbers; a claim
    about the residual stream's growth by the invariance of the final norm, which runs the engine on a brief prompt.
    """
    rungs = {author(rung) for rung in RUNGS}
    for entered in ledger.hypotheses:
        if entered.raised_by not in rungs and ledger.standing(entered.id) is Standing.OPEN:
            _try(bench, ledger, entered)
    return _of_the_case(bench, ledger)


def _try(bench: Bench, ledger: Ledger, entered: Hypothesis) -> None:
    if entered.raised_by != BUILT_IN and RESIDUAL in entered.claim and bench.sut is not None:
        _try_residual(bench, ledger, entered)
        return
    built_in = next((one for one in FOLKLORE if one.claim == entered.claim), None)
    kind = built_in or folklore_of(entered.claim)
    if kind is None:
        if entered.raised_by == THE_CASE:
            ledger.conclude(entered.id, Standing.INCONCLUSIVE, command="none", numbers={}, leaves_open=(UNKNOWN,))
        return  # a person's own, which a person will test
    judged = _judged(kind, bench.results)
    rests_on = _tests_of(ledger, kind.rests_on) if judged.numbers else ()
    late = (AFTERWARDS,) if _entered_late(ledger, entered, rests_on) else ()
    ledger.conclude(
        entered.id,
        judged.standing,
        command=next((c for n in kind.rests_on if n in bench.results for c in bench.results[n].commands), "none"),
        numbers=judged.numbers,
        rules_out=(entered.claim,) if judged.standing is Standing.REFUTED else (),
        leaves_open=(*judged.leaves_open, *late),
        rests_on=rests_on,
    )


def _judged(kind: Folklore, results: Results) -> Judged:
    """What the rungs say; a rung that did not come to its end stored nothing to be judged by."""
    try:
        return kind.judge(results)
    except (KeyError, ParityError) as error:
        why = f"a rung did not come to its end: {error}"
        return Judged(Standing.INCONCLUSIVE, why, leaves_open=(why,))


def _tests_of(ledger: Ledger, numbers: Sequence[int]) -> tuple[str, ...]:
    """The tests of these rungs that still count."""
    gone = ledger.withdrawn()
    authors = {author(rung) for rung in RUNGS if rung.number in numbers}
    ids = {one.id for one in ledger.hypotheses if one.raised_by in authors}
    return tuple(test.id for test in ledger.tests() if test.hypothesis in ids and test.id not in gone)


def _entered_late(ledger: Ledger, entered: Hypothesis, rests_on: Sequence[str]) -> bool:
    order = {getattr(one, "id", None): number for number, one in enumerate(ledger.entries)}
    return any(order[test] < order[entered.id] for test in rests_on)


def _try_residual(bench: Bench, ledger: Ledger, entered: Hypothesis) -> None:
    request, claim = bench.case.request, entered.claim
    try:
        found = falsify_residual_scale(bench.engine, Request(request.name, request.ids[:BRIEF]), claim=claim)
    except ParityError as error:
        found = ResidualScale("unresolved", str(error), claim, None, None)
    verdict = STANDINGS.get(found.verdict, Standing.INCONCLUSIVE)
    ledger.conclude(
        entered.id,
        verdict if found.numbers else Standing.INCONCLUSIVE,
        command=f"parity falsify residual-scale --runner {bench.case.sut} --prompt FILE",
        numbers=dict(found.numbers),
        rules_out=(claim,) if verdict is Standing.REFUTED else (),
        leaves_open=() if found.numbers else (found.sentence,),
    )


def _of_the_case(bench: Bench, ledger: Ledger) -> dict[str, Any]:
    """What a finding says of the case's claim; empty where it has none."""
    claim = bench.case.claim
    entered = next((one for one in ledger.hypotheses if one.claim == claim), None)
    if not claim or entered is None:
        return {}
    standing = ledger.standing(entered.id)
    refuted = {Standing.REFUTED: True, Standing.SUPPORTED: False}.get(standing)
    return {"claim": claim, "claim_refuted": refuted, "claim_stands": standing.value}
