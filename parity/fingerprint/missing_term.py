"""Is a sum short of a term? A residual or a branch that is not added, or is added twice."""

from __future__ import annotations

import torch

from parity.fingerprint.causes import MISSING_RESIDUAL
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.subset import Held, carrying_rows, phase_of_rows, place_of_rows, rows_explained

TIMES: dict[float, str] = {0: "is not added", 2: "is added twice", -1: "is subtracted"}

WHOLE = 0.02
"""Distance from a whole number that rounding may leave a fitted one at: bf16 rounds each value to 2^-8 of itself."""


@reads_values
def detect_missing_term(field: ErrorField) -> Fingerprint | None:
    """Find an input of a sum that the SUT adds another number of times, in all rows or in some. score: the share of
    the error explained.

    A stage is a sum when its oracle is the sum of its inputs of the stage's own width, to 1 % of its norm (bf16 rounds
    to 0.4 %, and a sum of two roundings to less than twice that).
    """
    terms = {name: flat for name, t in field.inputs.items() if (flat := field.beside(t)) is not None}
    if len(terms) < 2:
        return None
    total = sum(terms.values())
    if float((field.y - total).square().sum()) > 0.01**2 * float(field.y.square().sum()):  # type: ignore[union-attr]
        return None
    found = [(_added(field, term, times), name, times) for name, term in terms.items() for times in _times(field, term)]
    explained, name, times = max(found, key=lambda one: one[0].score)
    if not explained.score > LEAST_SHARE:
        return None
    where, rows = place_of_rows(field, explained.rows)
    words = TIMES.get(times, f"is added {times:.4g} times")
    places = "" if explained.rows is None else f" in {rows}"
    sentence = f"{name} {words}{places}: {percent(explained.score)} of the error."
    numbers: dict[str, object] = {"term": name, "times": times}
    if explained.rows is not None:
        numbers |= {"rows": int(explained.rows.sum()), "of": field.rows, "phase": phase_of_rows(field, explained.rows)}
    return Fingerprint(MISSING_RESIDUAL, explained.score, numbers, sentence, where)


def _added(field: ErrorField, term: torch.Tensor, times: float) -> Held:
    return rows_explained(field, field.y + (times - 1) * term)


def _times(field: ErrorField, term: torch.Tensor) -> list[float]:
    """How many times the term may be added: the whole numbers, and what least squares of the error on it gives unless
    that is one of them. It is fitted to the rows that want what the middle unit of error wants: the others may have
    no fault, and their noise would pull at it."""
    rows = torch.from_numpy(carrying_rows(field))
    d, part = (field.d, term) if rows.all() else (field.d[rows], term[rows])
    own, size = (d * part).sum(1).double(), part.square().sum(1).double()
    wanted = own / size.clamp(min=1e-30)
    order = wanted.argsort()
    weight = d.square().sum(1).double()[order].cumsum(0)
    middle = wanted[order[int((weight < weight[-1] / 2).sum())]] if len(order) else torch.zeros(())
    near = (wanted - middle).abs() <= LEAST_SHARE * middle.abs()
    fitted = 1 + float(own[near].sum() / size[near].sum().clamp(min=1e-30))
    return [*TIMES, *([fitted] if all(abs(fitted - times) > WHOLE for times in TIMES) else [])]
