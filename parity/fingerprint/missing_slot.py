"""Does the sum over a token's experts skip one of them, or count it twice? In all rows, or from some row on."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import MISSING_EXPERT
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

TIMES = {0: "is not added", 2: "is added twice", -1: "is subtracted"}


@reads_values
def detect_missing_slot(field: ErrorField) -> Fingerprint | None:
    """Find rows of `moe.experts` in which one slot's part counts another number of times than once.

    Each row may lack another slot; a row counts where that explains most of its error. score: the share explained.
    The parts are `moe.topk_weights` [T, S] times `moe.down` [T, S, D]; their sum must be the oracle's to 1 % of its
    norm (bf16 rounds each product and the sum to 0.4 %).
    """
    parts = weighted_parts(field)
    if parts is None:
        return None
    return max((_counted(field, parts, times) for times in TIMES), key=lambda f: -1.0 if f is None else f.score)


def weighted_parts(field: ErrorField) -> torch.Tensor | None:
    """[T, S, D] fp32, what each slot adds to `moe.experts`; None where that is not known, or does not make the
    oracle."""
    down, weights = field.inputs.get("moe.down"), field.inputs.get("moe.topk_weights")
    if field.stage != "moe.experts" or down is None or weights is None or down.shape[:2] != weights.shape:
        return None
    if down.ndim != 3 or down.shape[2] != field.width or not weights.shape[1]:
        return None
    parts = torch.nan_to_num(weights.float()[..., None] * down.float(), 0.0, 0.0, 0.0)
    if float((field.y - parts.sum(1)).square().sum()) > 0.01**2 * float(field.y.square().sum()):
        return None
    return parts


def _counted(field: ErrorField, parts: torch.Tensor, times: int) -> Fingerprint | None:
    """Each row with the slot that fits it best counted so many times."""
    left = (field.d[:, None] - (times - 1) * parts).square().sum(2)
    slot = left.argmin(1)
    hit = (left.gather(1, slot[:, None])[:, 0] < (1 - LEAST_SHARE) * field.d.square().sum(1)).numpy()
    if not hit.any():
        return None
    rows = torch.from_numpy(np.flatnonzero(hit))
    predicted = field.y.clone()
    predicted[rows] += (times - 1) * parts[rows, slot[rows]]
    score = share_after(field, predicted)
    if not score > LEAST_SHARE:
        return None
    slots = sorted(set(slot[rows].tolist()))
    position = field.row_position[hit]
    ids = field.inputs.get("moe.topk_ids", field.related.get("moe.topk_ids"))
    same = ids is not None and ids.shape == parts.shape[:2]
    experts = sorted({int(e) for e in ids[rows, slot[rows]].tolist()}) if same and ids is not None else []
    numbers = {
        "times": times,
        "slots": slots,
        "rows": int(hit.sum()),
        "of": field.rows,
        "first_position": int(position.min()),
        "experts": experts,
    }
    which = f"slot {slots[0]}" if len(slots) == 1 else "one slot"
    sentence = (
        f"The part of {which} {TIMES[times]} in {int(hit.sum())} of {field.rows} rows (positions {position.min()} to "
        f"{position.max()}): {percent(score)} of the error."
    )
    where = Slice(
        experts=(experts[0],) if len(experts) == 1 else None,
        positions=None if hit.all() else (int(position.min()), int(position.max()) + 1),
    )
    return Fingerprint(MISSING_EXPERT, score, numbers, sentence, where)
