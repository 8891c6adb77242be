"""Is each row off by a factor of its own? A per-token factor is missing: a gate, a renormalization, a row scale."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import ROW_RATIO
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, collinear, factor, factor_gain, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

CARRIES = 0.01
"""Rows with less than this of a mean row's error are right and have no factor to speak of."""


@reads_values
def detect_row_factor(field: ErrorField) -> Fingerprint | None:
    """Find factors that differ from row to row in most rows that carry the error. score: the share of the error that
    they explain. Silent where one common factor leaves as little, and below FITTED columns or rows."""
    yy, dy, dd = field.sums.rows
    if field.width < FITTED or field.rows < 2:
        return None
    gain = factor_gain(dy, yy)
    hit = (dd > 0) & ((dd - gain) * field.width / (field.width - 1) < (1 - LEAST_SHARE) * dd)
    hit &= collinear(yy, dy, dd)
    carrying = dd > CARRIES * dd.mean()
    if hit.sum() < FITTED or 2 * (hit & carrying).sum() < carrying.sum():
        return None
    score = float(gain[hit].sum() / dd.sum())
    one = factor_gain(dy[hit].sum(keepdims=True), yy[hit].sum(keepdims=True))[0] / dd.sum()
    total = dd[hit].sum() / dd.sum()
    # The rows' own factors leave less than half of what the common one does, each fitted number made up for.
    if (total - score) * field.width / (field.width - 1) >= (1 - LEAST_SHARE) * (total - one):
        return None
    own = factor(dy, yy)[hit]
    low, median, high = np.quantile(own, (0.05, 0.5, 0.95))
    numbers = {
        "rows": int(hit.sum()),
        "factor_5": float(low),
        "factor_median": float(median),
        "factor_95": float(high),
        "explained_by_one_factor": float(one),
    }
    sentence = (
        f"{hit.sum()} of {field.rows} rows are multiples of the oracle's, each by a factor of its own ({low:.3g} to "
        f"{high:.3g}, median {median:.3g}); together these explain {percent(score)} of the error, one common factor "
        f"{percent(float(one))}."
    )
    return Fingerprint(ROW_RATIO, score, numbers, sentence, Slice())
