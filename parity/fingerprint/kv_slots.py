"""Are keys or values read from other cache slots than their positions'? Shifts tried on the SUT's own tensors."""

from __future__ import annotations

import torch

from parity.fingerprint.attend import Attention, attention_of, first_wrong_query
from parity.fingerprint.causes import KV_SLOTS
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

SHIFTS = (1, 2, 3, 4, 8, 16, 32, 64, 128)
"""Slots that a wrong start, a wrong page or a wrong count of cached tokens is off by, either way."""

COARSE = 12
"""Queries on which every shift is tried; the best one is judged on all sampled ones."""

Shift = tuple[str, int, int]
"""(what is shifted: `keys`, `values` or `keys and values`; by how many slots; from which slot on)."""


@reads_values
def detect_kv_slots(field: ErrorField) -> Fingerprint | None:
    """Find that slot s of the cache holds the key, value or both of position s - n. score: the share of the error that
    this explains over the sampled queries. Needs the inputs attn.q_rope, attn.k_rope and attn.v of positions 0..T-1.

    The first slots of the shifted range hold what nobody wrote; they are taken as zero, or as their neighbour.
    """
    attention = attention_of(field)
    if attention is None or len(attention.k) < 4:
        return None
    coarse = attention.fewer(COARSE)
    scores = coarse.scores()
    # Attention that is the oracle's own leaves nothing to look for: the error then is not this one's.
    tried = [(_explained(coarse, scores, shift), shift) for shift in _shifts(field, len(attention.k))]
    best, shift = max(tried, key=lambda found: found[0])
    if best < LEAST_SHARE:
        return None
    whole = attention.scores()
    score, unchanged = _explained(attention, whole, shift), attention.explained(scores=whole)
    if score < LEAST_SHARE or score - max(unchanged, 0.0) < LEAST_SHARE:
        return None
    what, by, start = shift
    numbers = {"shifted": what, "by": by, "from_slot": start, "explained_by_right_slots": unchanged}
    since = f" from slot {start} on" if start else ""
    sentence = (
        f"Attention computed here with {what} of {abs(by)} positions {'before' if by > 0 else 'after'} their slot"
        f"{since} gives the SUT's tensor: {percent(score)} of the error."
    )
    return Fingerprint(KV_SLOTS, score, numbers, sentence, Slice())


def _shifts(field: ErrorField, keys: int) -> list[Shift]:
    onset = first_wrong_query(field)
    starts = sorted({0, max(onset - 1, 0), onset, min(onset + 1, keys - 1)})
    launches = sorted(set(field.row_launch.tolist()))
    sizes = {int((field.row_launch == one).sum()) for one in launches[:-1]}
    return [
        (what, by, start)
        for size in sorted({*SHIFTS, *sizes})
        for by in (size, -size)
        for start in starts
        if size < keys - start
        for what in ("keys and values", "keys", "values")
    ]


def _explained(attention: Attention, scores: torch.Tensor, shift: Shift) -> float:
    what, by, start = shift
    keys = len(attention.k)
    order = torch.arange(keys)
    order[start:] = (order[start:] - by).clamp(start, keys - 1)
    return attention.explained(
        scores=scores[..., order] if "keys" in what else scores,
        v=attention.v[order] if "values" in what else None,
    )
