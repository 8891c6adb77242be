"""Are many values clipped at one extreme? A cast to a narrow format, or a limit that is none of the model's."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import SATURATED
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

BEYOND = 0.9
"""Share of the clipped values whose oracle must lie at or beyond the limit."""


@reads_values
def detect_saturation(field: ErrorField) -> Fingerprint | None:
    """Find at least FITTED values at the same extreme magnitude where the oracle's go beyond. score: the share of the
    error explained by clipping the oracle there."""
    low, high = field.range
    x = field.x.numpy()
    best: Fingerprint | None = None
    for limit, side in ((high, 1.0), (low, -1.0)):
        if side * limit <= 0 or np.count_nonzero(x == limit) < FITTED:
            continue
        at = (field.x == limit).nonzero()
        there = field.y[at[:, 0], at[:, 1]] * side
        if float((there >= abs(limit)).float().mean()) < BEYOND:
            continue
        other = (field.x == -limit).sum()
        # Nothing lies beyond a limit that clips both sides; a coarse dtype meets -limit by chance.
        two = int(other) >= FITTED and high == -low
        clipped = (
            field.y.clamp(-abs(limit), abs(limit))
            if two
            else (field.y.clamp(max=limit) if side > 0 else field.y.clamp(min=limit))
        )
        score = share_after(field, clipped)
        if score > LEAST_SHARE and (best is None or score > best.score):
            count = len(at) + (int(other) if two else 0)
            numbers = {"limit": limit, "values": count, "both_sides": two, "oracle_max": float(there.max())}
            sign = "±" if two else ""
            sentence = (
                f"{count} values stand at {sign}{abs(limit) if two else limit:.6g} exactly, where the oracle reaches "
                f"{float(there.max()):.4g}: clipping explains {percent(score)} of the error."
            )
            best = Fingerprint(SATURATED, score, numbers, sentence, Slice())
    return best
