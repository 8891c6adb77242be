"""Is the SUT's tensor another tensor? Gate where up belongs, an older buffer, the output of another input."""

from __future__ import annotations

from parity.fingerprint.causes import GATE_UP_SWAPPED, WRONG_INPUT
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.subset import place_of_rows, rows_explained
from parity.records import Slice

PARTNER = {"moe.gate": "moe.up", "moe.up": "moe.gate"}


@reads_values
def detect_swapped_halves(field: ErrorField) -> Fingerprint | None:
    """Find gate and up swapped, in all rows or in those of some experts: the SUT of one is the oracle of the other,
    which `related` must hold. score: the share of the error explained."""
    partner = PARTNER.get(field.stage)
    other = field.beside(field.related.get(partner)) if partner else None
    if other is None or partner is None:
        return None
    explained = rows_explained(field, other)
    if not explained.score > LEAST_SHARE:
        return None
    where, rows = place_of_rows(field, explained.rows)
    places = "" if explained.rows is None else f" in {rows}"
    sentence = f"The SUT's {field.stage} is the oracle's {partner}{places}: {percent(explained.score)} of the error."
    return Fingerprint(GATE_UP_SWAPPED, explained.score, {"equals": partner}, sentence, where)


@reads_values
def detect_wrong_buffer(field: ErrorField) -> Fingerprint | None:
    """Find a tensor at hand that the SUT's equals instead of the oracle's: one of its inputs, or of `related`.

    `related` entries named `STAGE<-INPUT` are the oracle's output of the judged stage on another tensor's values; one
    that fits says which buffer was read. score: the share of the error explained.
    """
    known = {**{f"its input {name}": t for name, t in field.inputs.items()}, **field.related}
    known.pop("weight", None)
    scores = {}
    for name, tensor in known.items():
        other = field.beside(tensor)
        if other is not None:
            scores[name] = share_after(field, other)
    best = max(scores, key=lambda name: scores[name], default=None)
    # An operation that is left out returns its input: gate transforms and norms say so, and which.
    if best is None or not scores[best] > LEAST_SHARE:
        return None
    _, arrow, source = best.partition("<-")
    equals = f"what the oracle computes from {source}" if arrow else f"{best}"
    sentence = f"The SUT's {field.stage} is {equals}, not its own: {percent(scores[best])} of the error."
    numbers = {"equals": best, "read_instead": source or None, "explained": scores}
    return Fingerprint(WRONG_INPUT, scores[best], numbers, sentence, Slice())
