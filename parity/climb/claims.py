"""Somebody says what it is: can that be? A person's diagnosis, tried by what could refute it."""

from __future__ import annotations

from typing import Any

from parity.climb.bench import Bench
from parity.decode import ResidualScale, falsify_residual_scale
from parity.errors import ParityError
from parity.ladder.ledger import Ledger, Standing
from parity.runner import Request

BRIEF = 72
PREDICTION = "Logits of the last residual and of a hundredth of it differ in their largest, or in direction."
STANDINGS = {"refuted": Standing.REFUTED, "scale_dependent": Standing.SUPPORTED, "no_norm": Standing.SUPPORTED}


def try_claim(bench: Bench, ledger: Ledger) -> dict[str, Any]:
    """Enter the case's claim into the ledger, test it where a falsification fits, and say what came of it.

    `claim_refuted` is None where nothing here can try it. Claims about the growth of the residual stream are tried by
    the invariance of the final norm.
    """
    claim = bench.case.claim
    if not claim:
        return {}
    known = next((one for one in ledger.hypotheses if one.claim == claim), None)
    entered = known or ledger.suppose(claim, prediction=PREDICTION, raised_by="the case")
    tested = ledger.standing(entered.id)
    if tested is not Standing.OPEN:
        return {"claim": claim, "claim_refuted": tested is Standing.REFUTED}
    if "residual" not in claim or bench.sut is None:
        why = "no falsification of such a claim is known here"
        ledger.conclude(entered.id, Standing.INCONCLUSIVE, command="none", numbers={}, leaves_open=(why,))
        return {"claim": claim, "claim_refuted": None, "claim_sentence": why}
    request = bench.case.request
    try:
        found = falsify_residual_scale(bench.engine, Request(request.name, request.ids[:BRIEF]), claim=claim)
    except ParityError as error:
        found = ResidualScale("unresolved", str(error), claim, None, None)
    verdict = STANDINGS.get(found.verdict, Standing.INCONCLUSIVE)
    ledger.conclude(
        entered.id,
        verdict if found.numbers else Standing.INCONCLUSIVE,
        command=f"parity falsify residual-scale {bench.case.sut} --prompt FILE",
        numbers=dict(found.numbers),
        rules_out=(claim,) if verdict is Standing.REFUTED else (),
    )
    return {"claim": claim, "claim_refuted": verdict is Standing.REFUTED, "claim_sentence": found.sentence}
