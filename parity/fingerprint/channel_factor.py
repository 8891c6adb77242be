"""Is each channel off by a factor of its own? A norm weight is missing, stored as w - 1, or another layer's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parity.fingerprint.causes import CHANNEL_RATIO
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, collinear, factor, factor_gain, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.subset import PART_WINS
from parity.fingerprint.sums import STRIP
from parity.records import Slice

CARRIES = 0.01
"""Channels with less than this of the error of one that carries it are right and have no factor to speak of."""


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
    # Of the channel that a unit of the error lies in: a few that carry all of it do not drown in the many.
    carrying = dd > CARRIES * (dd * dd).sum() / max(dd.sum(), 1e-300)
    hit &= collinear(yy, dy, dd) & carrying
    energy = dd.sum()
    score = float(gain[hit].sum() / energy) if energy > 0 else 0.0
    cells = field.sums.by(None, np.arange(len(field.sums.block)))
    coarse = float(factor_gain(cells[1], cells[0]).sum() / energy) if energy > 0 else 0.0
    # One of many columns is a segment; of a few slots one is all that a factor by slot can change.
    least = 2 if field.width >= FITTED else 1
    # Elements of a channel are no independent errors once a tile's rows share one: a tenth beyond the cells' factors,
    # or, of what these leave, most.
    finer = score >= coarse + 0.1 or (score >= coarse + PART_WINS and 1 - score <= LEAST_SHARE * (1 - coarse))
    if hit.sum() < least or not finer or 2 * hit.sum() < carrying.sum():
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
    return Fingerprint(CHANNEL_RATIO, score, numbers, sentence, _place(field, np.flatnonzero(carrying)))


def _place(field: ErrorField, channels: NDArray[np.int64]) -> Slice:
    """The range of the channels that are off, or its heads, where STRIP columns or more lie outside it."""
    first, last = int(channels[0]), int(channels[-1]) + 1
    if field.width - (last - first) < STRIP:
        return Slice()
    if field.heads > 1:
        per = field.width // field.heads
        heads = sorted({int(n) // per for n in channels})
        return Slice(heads=tuple(heads)) if len(heads) < field.heads else Slice()
    return Slice(columns=(first, last))
