"""Do a head's elements stand in the other order that rope knows: pairs side by side, or in halves?"""

from __future__ import annotations

from parity.fingerprint.causes import ROPE_PAIRING
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

LEAST_WIDTH = 4
"""Elements of a head; two are one pair, whose order is the same either way."""


@reads_values
def detect_pair_order(field: ErrorField) -> Fingerprint | None:
    """Find heads whose elements (2i, 2i + 1) are the oracle's (i, i + K/2), or the reverse. score: the share explained.

    Rows of a projection that were, or were not, reordered for the rope of another engine: the rope that follows then
    turns elements that are no pair.
    """
    if field.heads < 1 or field.width % field.heads:
        return None
    size = field.width // field.heads
    if size < LEAST_WIDTH or size % 2:
        return None
    y = field.y.view(field.rows, field.heads, size)
    orders = {
        "side by side": y.unflatten(-1, (2, -1)).transpose(-1, -2),
        "in halves": y.unflatten(-1, (-1, 2)).transpose(-1, -2),
    }
    scores = {words: share_after(field, order.reshape(field.x.shape)) for words, order in orders.items()}
    words = max(scores, key=lambda one: scores[one])
    if not scores[words] > LEAST_SHARE:
        return None
    sentence = (
        f"Each head's elements are the oracle's with the two of a rope pair {words}: {percent(scores[words])} of the "
        "error."
    )
    return Fingerprint(ROPE_PAIRING, scores[words], {"pairs": words, "head_dim": size}, sentence, Slice())
