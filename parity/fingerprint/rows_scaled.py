"""Are some rows off by one factor that they share, and the others right? A scale that only some tokens get."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import CONSTANT_RATIO
from parity.fingerprint.constant_ratio import CARRIES, ONE_FACTOR
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, collinear, factor_gain, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.subset import place_of_rows


@reads_values
def detect_rows_scaled(field: ErrorField) -> Fingerprint | None:
    """Find rows that are one constant multiple of the oracle's while the others carry next to nothing of the error.

    score: share of the error that the one factor explains in these rows. Silent where it is every row's factor, where
    the rows' factors differ, where other rows hold most of the error, and below FITTED columns.
    """
    yy, dy, dd = field.sums.rows
    if field.width < FITTED or field.rows < 2 or not dd.sum() > 0:
        return None
    gain = factor_gain(dy, yy)
    carrying = dd > CARRIES * dd.mean()
    hit = carrying & ((dd - gain) * field.width / (field.width - 1) < (1 - LEAST_SHARE) * dd) & collinear(yy, dy, dd)
    if not hit.any() or hit.all():
        return None
    excess = dy[hit].sum() / yy[hit].sum()
    shared = 2 * excess * dy[hit].sum() - excess**2 * yy[hit].sum()
    if shared < ONE_FACTOR * gain[hit].sum() or 2 * (dy[hit] * excess > 0).sum() < hit.sum():
        return None
    if shared < LEAST_SHARE * dd.sum():
        return None
    # What the factor would do to the other rows must not be there: else it is the tensor's, and some rows are noisy.
    other = ~hit & (yy > 0)
    if not other.any() or np.median(dy[other] / yy[other] / excess) > LEAST_SHARE:
        return None
    score = float(shared / dd.sum())
    where, words = place_of_rows(field, hit)
    numbers = {"kind": "rows", "rows": int(hit.sum()), "of": field.rows, "factor": float(1 + excess)}
    sentence = (
        f"{words} {'are' if hit.sum() > 1 else 'is'} {1 + excess:.4g} times the oracle's, the others are not: one "
        f"factor explains {percent(score)} of the error."
    )
    return Fingerprint(CONSTANT_RATIO, score, numbers, sentence, where)
