"""Is a sum short of a term? A residual or a branch that is not added, or is added twice."""

from __future__ import annotations

import torch

from parity.fingerprint.causes import MISSING_RESIDUAL
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

TIMES: dict[float, str] = {0: "is not added", 2: "is added twice", -1: "is subtracted"}

WHOLE = 0.02
"""Distance from a whole number that rounding may leave a fitted one at: bf16 rounds each value to 2^-8 of itself."""


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
        ((share_after(field, field.y + (times - 1) * term), name, times) for name, term in terms.items()
         for times in _times(field, term)),
        key=lambda found: found[0],
    )  # fmt: skip
    score, name, times = best
    if not score > LEAST_SHARE:
        return None
    words = TIMES.get(times, f"is added {times:.4g} times")
    sentence = f"{name} {words}: {percent(score)} of the error."
    return Fingerprint(MISSING_RESIDUAL, score, {"term": name, "times": times}, sentence, Slice())


def _times(field: ErrorField, term: torch.Tensor) -> list[float]:
    """How many times the term may be added: the whole numbers, and what least squares of the error on it gives unless
    that is one of them."""
    size = float(term.square().sum())
    fitted = 1 + float((field.d * term).sum()) / size if size > 0 else 1.0
    return [*TIMES, *([fitted] if all(abs(fitted - times) > WHOLE for times in TIMES) else [])]
