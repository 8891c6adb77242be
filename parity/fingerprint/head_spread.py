"""Is every head off by a factor of its own? A pointer read as another type scrambles what belongs to a head.

The mean over heads hides it: the spread of the per-head ratio is the sign.
"""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import HEAD_SPREAD
from parity.fingerprint.constant_ratio import ONE_FACTOR, scaled_slices, slice_sums
from parity.fingerprint.evidence import LEAST_SHARE, UNRELATED, cosines, listed, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

WILD = 2.0
"""Ratio between the largest and the smallest norm ratio of the heads that makes a spread wild when the heads' values
are no multiples of the oracle's either: one step of the exponent, which a reinterpreted number has at random."""


@reads_values
def detect_head_spread(field: ErrorField) -> Fingerprint | None:
    """Find different factors of most heads, at least three heads wide.

    score: the share of the error that the heads' own factors explain; where they explain less than half, and the norm
    ratios spread by WILD at the least with every direction lost, half of the heads' share of the error.
    """
    if field.heads < 3:
        return None
    yy, dy, dd, _ = slice_sums(field, "head")
    ratio = np.sqrt(np.divide(yy + 2 * dy + dd, yy, out=np.ones_like(yy), where=yy > 0))[0]
    numbers = {
        "ratio_std": float(ratio.std()),
        "ratio_min": float(ratio.min()),
        "ratio_max": float(ratio.max()),
        "ratio_by_head": [float(r) for r in ratio],
    }
    most = (field.heads + 1) // 2
    scaled = scaled_slices(field, "head")
    if scaled is not None and len(scaled.slices) >= most and scaled.score < ONE_FACTOR * scaled.own_score:
        score, heads = scaled.own_score, scaled.slices[:, 1].tolist()
    else:
        off = (dd > LEAST_SHARE**2 * yy)[0] & (np.abs(cosines(yy, dy, dd)[0]) < LEAST_SHARE)
        wild = off.sum() >= most and ratio[off].max() >= WILD * max(float(ratio[off].min()), 1e-30)
        if not wild:
            return None
        score, heads = float(UNRELATED * dd[0, off].sum() / dd.sum()), np.flatnonzero(off).tolist()
    sentence = (
        f"Heads {listed(heads)} are each off by a factor of their own: norm ratio {ratio.min():.3g} to "
        f"{ratio.max():.3g}, standard deviation {ratio.std():.3g}. Look for a per-head parameter read as another type."
    )
    return Fingerprint(HEAD_SPREAD, score, numbers, sentence, Slice(heads=tuple(heads)))
