"""Which keys does attention not read, or read too early? Masks tried on the SUT's own queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from parity.fingerprint.attend import FAR_OFF, FEW, Attention, attention_of, first_wrong_query
from parity.fingerprint.causes import ATTENTION_REACH
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

Mask = Callable[[Attention, int], torch.Tensor]
"""Keys that are hidden, [Q, T] bool, for a size."""

EVERY = 1 << 30

TILES = (16, 32, 64, 128, 256)
"""Key tiles of attention kernels."""

GRID = 16
"""Sizes of the first grid: 1.6 apart by factor at a thousand keys."""

AS_GOOD = 0.02
"""Shares of the error this near are one, as `read.TIE` has it."""

COARSE = 16
"""Queries on which every mask is tried; the best one is judged on all sampled ones."""


@reads_values
def detect_attention_reach(field: ErrorField) -> Fingerprint | None:
    """Find the set of keys that an `attn.context` leaves out, or sees beyond its own position.

    Where the first wrong query stands gives the size: a window of W keys is right up to position W - 1, a lost first
    tile up to its own end. score: the share of the error explained over the sampled queries. Needs the inputs
    attn.q_rope, attn.k_rope and attn.v of positions 0..T-1.
    """
    attention = attention_of(field)
    if attention is None or len(attention.k) < 2:
        return None
    coarse = attention.fewer(COARSE)
    scores = coarse.scores()
    few = coarse.fewer(FEW)
    some = few.scores()

    def explained(mask: Mask, size: int) -> float:
        first = few.explained(hidden=mask(few, size), scores=some)
        if first < FAR_OFF:
            return first
        return coarse.explained(hidden=mask(coarse, size), scores=scores)

    near = first_wrong_query(field)
    # A mask may be wrong from the second launch on, a chunk's or a step's; the queries before see what they should.
    later = np.flatnonzero(field.row_launch != field.row_launch[0])
    starts = [0, int(field.row_position[later[0]])] if len(later) else [0]
    tried = [
        (*_best_size(partial(explained, from_query(mask, start)), len(attention.k), sizes, near), start, words, mask)
        for start in starts
        for words, mask, sizes in MASKS
    ]
    tried = [one for one in tried if one[0] >= LEAST_SHARE]  # values too large to square give no share at all
    if not tried:
        return None
    most = max(score for score, *_ in tried)
    whole = attention.scores()
    near = [one for one in tried if one[0] >= most - AS_GOOD]
    if len(near) > 1:
        near = [
            (attention.explained(hidden=from_query(one[4], one[2])(attention, one[1]), scores=whole), *one[1:])
            for one in near
        ]
        most = max(score for score, *_ in near)
    # Of two that explain as much the one that holds for all queries.
    _, size, start, words, mask = next(one for one in near if one[0] >= most - AS_GOOD)
    hidden, what = from_query(mask, start)(attention, size), words.format(size)
    what += f", from query {start} on," if start else ""
    score, unchanged = attention.explained(hidden=hidden, scores=whole), attention.explained(scores=whole)
    if score < LEAST_SHARE or score - max(unchanged, 0.0) < LEAST_SHARE:
        return None
    if not attention.agrees(attention.context(hidden=hidden, scores=whole)):
        return None
    numbers = {
        "mask": what,
        "size": size,
        "from_query": start,
        "explained_by_right_mask": unchanged,
        "queries": len(attention.positions),
    }
    sentence = (
        f"Attention computed here from the SUT's own q, k and v where {what} gives the SUT's tensor: "
        f"{percent(score)} of the error."
    )
    return Fingerprint(ATTENTION_REACH, score, numbers, sentence, _reached(attention, from_query(mask, start), size))


def _reached(attention: Attention, mask: Mask, size: int) -> Slice:
    """The positions from the first query on whose keys are others than they should be; all of them, no slice."""
    everyone = replace(attention, positions=np.arange(len(attention.k)))
    other = (mask(everyone, size) != everyone.future()).any(1).nonzero().flatten()
    first = int(other[0]) if len(other) else 0
    return Slice(positions=(first, int(other[-1]) + 1)) if first > 1 else Slice()


def from_query(mask: Mask, start: int) -> Mask:
    """The mask for queries at positions from `start` on; those before see every key that they should."""
    if not start:
        return mask
    return lambda attention, size: torch.where(_at(attention) >= start, mask(attention, size), attention.future())


def _best_size(
    explained: Callable[[int], float], keys: int, sizes: tuple[int, ...] | None, near: int
) -> tuple[float, int]:
    """(share explained, size) of the best size of one kind of mask.

    sizes: those to try; None: any, a geometric grid refined around its best, since a window that is a little too long
    still explains most of what the right one does.
    """
    if sizes is not None:
        sizes = tuple(min(size, keys) for size in sizes)
        own = sorted({size for size in (*sizes, *((near,) if len(sizes) > 1 else ())) if 0 < size <= keys})
        return max(((explained(size), size) for size in own), default=(0.0, 0))
    grid = np.unique(np.geomspace(1, max(keys - 1, 1), GRID).round().astype(int)).tolist()
    tried = {
        size: explained(size) for size in sorted({*grid, *(n for n in (near - 1, near, near + 1) if 0 < n < keys)})
    }
    while True:
        ordered = sorted(tried)
        at = ordered.index(max(tried, key=lambda size: tried[size]))
        beside = [ordered[i] for i in (at - 1, at + 1) if 0 <= i < len(ordered)]
        between = {(ordered[at] + size) // 2 for size in beside} - set(tried)
        if not between:
            return tried[ordered[at]], ordered[at]
        tried |= {size: explained(size) for size in between}


def _key(attention: Attention) -> torch.Tensor:
    return torch.arange(len(attention.k))[None, :]


def _at(attention: Attention) -> torch.Tensor:
    return torch.from_numpy(attention.positions)[:, None]


def _window(attention: Attention, size: int) -> torch.Tensor:
    return attention.future() | (_key(attention) <= _at(attention) - size)


def _ends(attention: Attention, size: int) -> torch.Tensor:
    return attention.future() | ((_key(attention) >= size) & (_at(attention) >= size))


def _begins(attention: Attention, size: int) -> torch.Tensor:
    return attention.future() | ((_key(attention) < size) & (_at(attention) >= size))


def _own_chunk(attention: Attention, size: int) -> torch.Tensor:
    return attention.future() | (_key(attention) < _at(attention) // size * size)


def _no_tile(attention: Attention, size: int) -> torch.Tensor:
    return attention.future() | (_key(attention) >= _at(attention) // size * size)


def _no_late_tile(attention: Attention, size: int) -> torch.Tensor:
    return attention.future() | ((_key(attention) >= _at(attention) // size * size) & (_at(attention) >= size))


def _whole_tile(attention: Attention, size: int) -> torch.Tensor:
    return _key(attention) >= (_at(attention) // size + 1) * size


def _ahead(attention: Attention, size: int) -> torch.Tensor:
    return _key(attention) > _at(attention) + size


def _not_itself(attention: Attention, size: int) -> torch.Tensor:
    return attention.future() | ((_key(attention) == _at(attention)) & (_at(attention) > 0))


MASKS: tuple[tuple[str, Mask, tuple[int, ...] | None], ...] = (
    ("each query sees the last {} keys only", _window, None),
    ("keys from {} on are not read", _ends, None),
    ("the first {} keys are not read", _begins, None),
    ("each query sees the keys of its own {} positions only", _own_chunk, TILES),
    ("the tile of {} keys around the query is not read", _no_tile, TILES),
    ("the tile of {} keys around the query, but for the first, is not read", _no_late_tile, TILES),
    ("keys up to the end of the query's tile of {} are read", _whole_tile, TILES),
    ("{} later keys are read", _ahead, (1, 2, 4, 8, 16, 64, 256, EVERY)),
    ("the query's own key is not read", _not_itself, (1,)),
)
"""What is tried, with its sizes: tiles and a few numbers, or any."""
