"""Are keys or values read from other cache slots than their positions'? Shifts tried on the SUT's own tensors."""

from __future__ import annotations

import torch

from parity.fingerprint.attend import FAR_OFF, FEW, Attention, attention_of, first_wrong_query
from parity.fingerprint.causes import KV_SLOTS
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

SHIFTS = (1, 2, 3, 4, 8, 16, 32, 64, 128)
"""Slots that a wrong start, a wrong page or a wrong count of cached tokens is off by, either way."""

COARSE = 12
"""Queries on which every shift is tried; the best one is judged on all sampled ones."""


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
    few = coarse.fewer(FEW)
    scores, some = coarse.scores(), few.scores()
    plain = coarse.weights(scores), few.weights(some)
    # Attention that is the oracle's own leaves nothing to look for: the error then is not this one's.
    tried = [
        (share, (what, by, start))
        for by, start in _shifts(field, len(attention.k))
        if max(_explained(few, some, plain[1], by, start).values()) > FAR_OFF
        for what, share in _explained(coarse, scores, plain[0], by, start).items()
    ]
    if not tried:
        return None
    best, (what, by, start) = max(tried, key=lambda found: found[0])
    if best < LEAST_SHARE:
        return None
    whole = attention.scores()
    right = attention.weights(whole)
    score, unchanged = _explained(attention, whole, right, by, start)[what], attention.explained(scores=whole)
    if not attention.agrees(_context(attention, whole, right, by, start)[what]):
        return None
    if score < LEAST_SHARE or score - max(unchanged, 0.0) < LEAST_SHARE:
        return None
    numbers = {"shifted": what, "by": by, "from_slot": start, "explained_by_right_slots": unchanged}
    since = f" from slot {start} on" if start else ""
    sentence = (
        f"Attention computed here with {what} of {abs(by)} positions {'before' if by > 0 else 'after'} their slot"
        f"{since} gives the SUT's tensor: {percent(score)} of the error."
    )
    where = Slice(positions=(start, field.tokens)) if start else Slice()
    return Fingerprint(KV_SLOTS, score, numbers, sentence, where)


def _shifts(field: ErrorField, keys: int) -> list[tuple[int, int]]:
    """(slots, from which on) of everything that is tried."""
    onset = first_wrong_query(field)
    starts = sorted({0, max(onset - 1, 0), onset, min(onset + 1, keys - 1)})
    launches = sorted(set(field.row_launch.tolist()))
    sizes = {int((field.row_launch == one).sum()) for one in launches[:-1]}
    return [
        (by, start)
        for size in sorted({*SHIFTS, *sizes})
        for by in (size, -size)
        for start in starts
        if size < keys - start
    ]


def _explained(
    attention: Attention, scores: torch.Tensor, plain: torch.Tensor, by: int, start: int
) -> dict[str, float]:
    """Share of the error that shifted keys and values, keys, or values explain; plain: the weights of `scores`."""
    made = _context(attention, scores, plain, by, start)
    return {what: attention.explained_by(context) for what, context in made.items()}


def _context(
    attention: Attention, scores: torch.Tensor, plain: torch.Tensor, by: int, start: int
) -> dict[str, torch.Tensor]:
    moved, v = attention.weights(_shifted(scores, -1, by, start)), _shifted(attention.v, 0, by, start)
    return {
        "keys and values": attention.mixed(moved, v),
        "keys": attention.mixed(moved),
        "values": attention.mixed(plain, v),
    }


def _shifted(values: torch.Tensor, axis: int, by: int, start: int) -> torch.Tensor:
    """Slot s from `start` on holds what belongs to s - by, or to the nearest slot from `start` on if that is none."""
    slots = values.shape[axis]
    edge = values.narrow(axis, start if by > 0 else slots - 1, 1)
    fill = edge.expand(*(abs(by) if size == axis % values.ndim else -1 for size in range(values.ndim)))
    kept = values.narrow(axis, start + max(-by, 0), slots - start - abs(by))
    return torch.cat([values.narrow(axis, 0, start), *((fill, kept) if by > 0 else (kept, fill))], axis)
