"""Is a sum short of a term? A residual or a branch that is not added, or is added twice."""

from __future__ import annotations

from parity.fingerprint.causes import MISSING_RESIDUAL
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

TIMES = {0: "is not added", 2: "is added twice", -1: "is subtracted"}


@reads_values
def detect_missing_term(field: ErrorField) -> Fingerprint | None:
    """Find an input of a sum that the SUT adds another number of times. score: the share of the error explained.

    A stage is a sum when its oracle is the sum of its inputs of the stage's own width, to 1 % of its norm (bf16 rounds
    to 0.4 %, and a sum of two roundings to less than twice that).
    """
    terms = {name: flat for name, t in field.inputs.items() if (flat := field.beside(t)) is not None}
    if len(terms) < 2:
        return None
    total = sum(terms.values())
    if float((field.y - total).square().sum()) > 0.01**2 * float(field.y.square().sum()):  # type: ignore[union-attr]
        return None
    best = max(
        (
            (share_after(field, field.y + (times - 1) * term), name, times)
            for name, term in terms.items()
            for times in TIMES
        ),
        key=lambda found: found[0],
    )
    score, name, times = best
    if not score > LEAST_SHARE:
        return None
    sentence = f"{name} {TIMES[times]}: {percent(score)} of the error."
    return Fingerprint(MISSING_RESIDUAL, score, {"term": name, "times": times}, sentence, Slice())
