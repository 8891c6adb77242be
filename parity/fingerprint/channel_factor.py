"""Is each channel off by a factor of its own? A norm weight is missing, stored as w - 1, or another layer's."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import CHANNEL_RATIO
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, collinear, factor, factor_gain, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

CARRIES = 0.01
"""Channels with less than this of a mean channel's error are right and have no factor to speak of."""


@reads_values
def detect_channel_factor(field: ErrorField) -> Fingerprint | None:
    """Find factors that differ from channel to channel, the same for all rows (and, where it explains as much, all
    heads). score: the share of the error that they explain.

    A channel is a column; silent below FITTED rows, and where factors of whole column cells explain as much.
    """
    if field.rows < FITTED:
        return None
    yy, dy, dd = field.sums.columns
    gain = factor_gain(dy, yy)
    hit = (dd > 0) & ((dd - gain) * field.rows / (field.rows - 1) < (1 - LEAST_SHARE) * dd)
    carrying = dd > CARRIES * dd.mean()
    hit &= collinear(yy, dy, dd) & carrying
    energy = dd.sum()
    score = float(gain[hit].sum() / energy) if energy > 0 else 0.0
    cells = field.sums.by(None, np.arange(len(field.sums.block)))
    coarse = float(factor_gain(cells[1], cells[0]).sum() / energy) if energy > 0 else 0.0
    # One of many columns is a segment; of a few slots one is all that a factor by slot can change.
    least = 2 if field.width >= FITTED else 1
    # Elements of a channel are no independent errors once a tile's rows share one: a tenth beyond the cells' factors.
    if hit.sum() < least or score < coarse + 0.1 or 2 * hit.sum() < carrying.sum():
        return None
    shared = None
    if field.heads > 1:
        per = [a.reshape(field.heads, -1).sum(0) for a in (dy, yy)]
        shared = float(factor_gain(*per).sum() / energy)
    own = factor(dy, yy)[hit]
    low, median, high = np.quantile(own, (0.05, 0.5, 0.95))
    numbers = {
        "channels": int(hit.sum()),
        "factor_5": float(low),
        "factor_median": float(median),
        "factor_95": float(high),
        "explained_by_blocks": coarse,
        "explained_by_one_set_for_all_heads": shared,
    }
    sentence = (
        f"{hit.sum()} of {field.width} channels are each off by a factor of their own ({low:.3g} to {high:.3g}, median "
        f"{median:.3g}), the same in all rows: {percent(score)} of the error, factors of whole blocks "
        f"{percent(coarse)}."
    )
    return Fingerprint(CHANNEL_RATIO, score, numbers, sentence, Slice())
