"""Is each row off by a factor of its own? A per-token factor is missing: a gate, a renormalization, a row scale."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import ROW_RATIO
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, collinear, factor, factor_gain, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

BEYOND = 0.05
"""How much more than one common factor the rows' own must explain: a share of the error's energy. Noise gives each
row's factor 1/width of it (at least FITTED columns: 0.125 of the noise's part), a mere constant nothing."""


@reads_values
def detect_row_factor(field: ErrorField) -> Fingerprint | None:
    """Find factors that differ from row to row in most rows. score: the share of the error that they explain."""
    yy, dy, dd = field.sums.rows
    if field.width < FITTED or field.rows < 2:
        return None
    gain = factor_gain(dy, yy)
    hit = (dd > 0) & ((dd - gain) * field.width / (field.width - 1) < (1 - LEAST_SHARE) * dd)
    hit &= collinear(yy, dy, dd)
    if 2 * hit.sum() < max((yy > 0).sum(), 2):
        return None
    score = float(gain[hit].sum() / dd.sum())
    one = factor_gain(dy[hit].sum(keepdims=True), yy[hit].sum(keepdims=True))[0] / dd.sum()
    if score - one < BEYOND:
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
