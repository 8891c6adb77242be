"""Is the same vector missing from, or added to, every row? A bias that is not applied, or that the model lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parity.fingerprint.causes import MISSING_BIAS
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, listed, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.subset import CARRIES
from parity.records import Slice

FEW = 0.25
"""Largest share of the columns that counts as some of them."""


@reads_values
def detect_missing_bias(field: ErrorField) -> Fingerprint | None:
    """Find one vector by which all rows, or all rows of each expert, differ from the oracle's. score: the share of the
    error that it explains, what a mean of so few rows takes of noise left out.

    Needs FITTED rows (of an expert, where rows have one): a mean of n rows takes 1/n of a pure noise's energy.
    """
    energy = field.energy
    if field.rows < FITTED or not energy > 0:
        return None
    kinds = {"row": np.zeros(field.rows, np.int64)}
    if field.row_expert is not None:
        kinds["row of its expert"] = field.row_expert
    best = (0.0, "", 0)
    for kind, groups in kinds.items():
        explained = 0.0
        found = np.unique(groups[groups >= 0]).tolist()
        for group in found:
            d = field.d if len(found) == 1 else field.d[groups == group]
            count = len(d)
            if count >= FITTED:
                own, total = float(d.sum(0).square().sum()) / count, float(d.square().sum())
                explained += max(own - (total - own) / (count - 1), 0.0)
        best = max(best, (explained / energy - 0.02 * (kind != "row"), kind, len(found)))
    score, kind, groups_found = best
    if score < LEAST_SHARE:
        return None
    mean = field.d.mean(0)
    numbers = {"per": kind, "vectors": groups_found, "rms_of_mean": float(mean.square().mean().sqrt())}
    where, words = _place(field, mean.square().double().numpy()) if groups_found == 1 else (Slice(), "")
    what = f"A constant is added to {words} of" if words else "One vector is added to"
    sentence = f"{what} every {kind}, or missing from it: {percent(score)} of the error."
    return Fingerprint(MISSING_BIAS, min(score, 1.0), numbers, sentence, where)


def _place(field: ErrorField, energy: NDArray[np.float64]) -> tuple[Slice, str]:
    """Which columns the vector acts on, where they are some of them: as experts where a column is one's. energy:
    [width], squares of the vector."""
    typical = float((energy * energy).sum() / max(float(energy.sum()), 1e-30))
    at = np.flatnonzero(energy >= CARRIES * typical)
    if not 0 < len(at) <= FEW * field.width:
        return Slice(), ""
    words = f"column{'s' if len(at) > 1 else ''} {listed(at.tolist())}"
    if field.axes[field.lead :] == ("E",):
        return Slice(experts=tuple(at.tolist())), words
    first, last = int(at[0]), int(at[-1]) + 1
    return (Slice(columns=(first, last)) if last - first <= FEW * field.width else Slice()), words
