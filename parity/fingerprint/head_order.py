"""Are the heads in other places? Each of the SUT's heads is compared with every head of the oracle."""

from __future__ import annotations

import torch

from parity.fingerprint.causes import HEADS_ALIASED, HEADS_PERMUTED, HEADS_SHIFTED
from parity.fingerprint.evidence import LEAST_SHARE, listed, percent, reads_values, share_explained
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice


@reads_values
def detect_head_order(field: ErrorField) -> Fingerprint | None:
    """Find heads that hold another head's values: shifted by one number, aliased (one head at several places), or
    permuted. score: the share of the error that the heads found elsewhere explain.

    A shift of all heads by one of two heads is a swap, one by several heads a rotation of blocks: both are permuted.
    """
    heads = field.heads
    if heads < 2:
        return None
    x, y = (t.view(field.rows, heads, -1) for t in (field.x, field.y))
    own = (x - y).square().sum((0, 2)).double()
    cross = torch.einsum("nhk,ngk->hg", x, y).double()
    xx, yy = x.square().sum((0, 2)).double(), y.square().sum((0, 2)).double()
    # |x_h - y_g|^2 by expansion finds the nearest head; the residual itself is then computed without cancellation.
    nearest = (xx[:, None] + yy[None, :] - 2 * cross).argmin(1)
    source = {}
    rest = own.clone()
    for head in range(heads):
        other = int(nearest[head])
        left = (x[:, head] - y[:, other]).square().sum().double()
        if other != head and left < (1 - LEAST_SHARE) * own[head]:
            source[head], rest[head] = other, left
    if not source:
        return None
    score = share_explained(field, float(rest.sum()))
    moved = sorted(source)
    shifts = {(source[h] - h) % heads for h in moved}
    # Heads that read one that a right head holds too, or two that read the same.
    right = {h for h in range(heads) if h not in source and own[h] < (1 - LEAST_SHARE) * (xx[h] + yy[h])}
    aliased = len(set(source.values())) < len(source) or bool(set(source.values()) & right)
    if len(shifts) == 1 and heads > 2 and len(moved) >= heads - 1:
        by = shifts.pop()
        by = by - heads if by > heads // 2 else by
        cause = HEADS_SHIFTED if abs(by) == 1 else HEADS_PERMUTED
        words = f"Each head holds the values of head number {by:+d} from it"
    elif aliased:
        cause, words = (
            HEADS_ALIASED,
            f"Heads {listed(moved)} hold values that belong to {listed(sorted(set(source.values())))}",
        )
    else:
        cause, words = HEADS_PERMUTED, f"Heads {listed(moved)} stand in another order"
    pairs = ", ".join(f"{h}<-{source[h]}" for h in moved[:8])
    numbers = {"source_of_head": {str(h): source[h] for h in moved}, "heads": heads}
    sentence = f"{words} ({pairs}): {percent(score)} of the error."
    return Fingerprint(cause, score, numbers, sentence, Slice(heads=tuple(moved)))
