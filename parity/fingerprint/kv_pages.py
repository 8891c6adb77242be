"""Is a page of the key/value cache another page, exchanged with one, pushed on by one, or never written?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from parity.fingerprint.attend import Attention, attention_of, first_wrong_query
from parity.fingerprint.causes import KV_SLOTS, ROWS_UNWRITTEN
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

PAGES = (4, 8, 16, 32, 64, 128, 256)
"""Slots of a page."""

ASKED = 8
"""Wrong queries on which every pair of pages is tried; the best pairs are judged on all sampled ones."""

PAIRS = 128
"""Pages of which every pair is tried; where there are more, each in place of the page at the first wrong query."""

BEST = 4
"""Pairs that are judged on all sampled queries."""

NOTHING = -1
"""Slot that stands for one that holds zeros."""


@dataclass(frozen=True)
class _Reading:
    """Slots [T] that are read in place of each slot, in words, and the first and last slot (exclusive) that differ."""

    slots: torch.Tensor
    words: str
    kind: str
    first: int
    stop: int
    page: int


@reads_values
def detect_kv_pages(field: ErrorField) -> Fingerprint | None:
    """Find pages whose slots hold another page's keys and values, or zeros. score: the share of the error explained
    over the sampled queries. Needs the inputs attn.q_rope, attn.k_rope and attn.v of positions 0..T-1.

    One page that repeats another, two that are exchanged, all from one slot on a page later or earlier, or zeros.
    """
    attention = attention_of(field)
    if attention is None or len(attention.k) < 2 * PAGES[0]:
        return None
    onset = first_wrong_query(field)
    asked = _asked(attention, onset)
    if asked is None:
        return None
    keys = len(attention.k)
    # A launch may read wrongly what the ones before read right.
    begins = onset > 0 and field.row_launch[onset] != field.row_launch[onset - 1]
    start = onset if begins else 0
    readings = [*_pairs(asked, onset, keys), *_moved(onset, keys)]
    tried = [(_explained(asked, one, start), one) for one in readings]
    tried = sorted((pair for pair in tried if pair[0] >= LEAST_SHARE), key=lambda pair: -pair[0])[:BEST]
    if not tried:
        return None
    score, reading = max(((_explained(attention, one, start), one) for _, one in tried), key=lambda pair: pair[0])
    unchanged = attention.explained()
    if score < LEAST_SHARE or score - max(unchanged, 0.0) < LEAST_SHARE:
        return None
    numbers = {
        "pages": reading.kind,
        "page": reading.page,
        "from_slot": reading.first,
        "to_slot": reading.stop,
        "explained_by_right_slots": unchanged,
    }
    sentence = (
        f"Attention computed here with a cache where {reading.words} gives the SUT's tensor: {percent(score)} of the "
        "error."
    )
    # A query sees the slot of its own position first; once both of two exchanged pages are seen, nothing is wrong.
    last = min(reading.stop, keys) if reading.kind == "exchanged" else keys
    first = max(reading.first, start)
    where = Slice(positions=(first, last)) if first < last else Slice()
    return Fingerprint(ROWS_UNWRITTEN if reading.kind == "zero" else KV_SLOTS, score, numbers, sentence, where)


def _asked(attention: Attention, onset: int) -> Attention | None:
    """A few queries that carry the error, after the first wrong one."""
    lost = (attention.sut - attention.oracle).square().sum((1, 2)).numpy()
    at = np.flatnonzero((lost >= LEAST_SHARE / 2 * lost.mean()) & (attention.positions >= onset))
    if not len(at):
        return None
    return attention.at(at[np.unique(np.linspace(0, len(at) - 1, min(ASKED, len(at))).round().astype(int))])


def _explained(attention: Attention, reading: _Reading, start: int) -> float:
    """Share explained by this reading in queries from `start` on, those before being right."""
    nothing = reading.slots == NOTHING
    slots = reading.slots.clamp(min=0)
    k, v = attention.k[slots], attention.v[slots]
    if bool(nothing.any()):
        k[nothing], v[nothing] = 0.0, 0.0
    context = attention.context(scores=attention.scores(k), v=v)
    early = torch.from_numpy(attention.positions < start)
    return attention.explained_by(torch.where(early[:, None, None], attention.oracle, context))


def _moved(onset: int, keys: int) -> Iterator[_Reading]:
    """All slots from the first wrong one on a page late, or never written."""
    at = torch.arange(keys)
    # The first wrong query may drown in noise: then a page begins before it.
    for start in sorted({onset, max(onset - 1, 0), onset // 16 * 16, onset // 64 * 64} - {0}):
        for page in (page for page in PAGES if page <= start):
            slots = torch.where(at >= start, at - page, at)
            words = f"slots from {start} on hold what belongs {page} slots before them"
            yield _Reading(slots, words, "late", start, keys, page)
        slots = torch.where(at >= start, NOTHING, at)
        yield _Reading(slots, f"slots from {start} on hold zeros", "zero", start, keys, keys - start)


def _pairs(asked: Attention, onset: int, keys: int) -> Iterator[_Reading]:
    """The pair of pages that explains most at each size and alignment: one in the other's place, and exchanged."""
    at = torch.arange(keys)
    for page in (page for page in PAGES if 2 * page <= keys):
        for offset in sorted({0, onset % page}):
            found = _best_pair(asked, onset, page, offset)
            if found is None:
                continue
            first, source = found
            if source == NOTHING:
                slots = torch.where((at >= first) & (at < first + page), NOTHING, at)
                words = f"the {page} slots from {first} on hold zeros"
                yield _Reading(slots, words, "zero", first, first + page, page)
                continue
            slots = at.clone()
            slots[first : first + page] = at[source : source + page]
            words = f"the {page} slots from {first} on hold what belongs to those from {source} on"
            yield _Reading(slots, words, "repeated", first, first + page, page)
            both = slots.clone()
            both[source : source + page] = at[first : first + page]
            words = f"the {page} slots from {first} on and those from {source} on are exchanged"
            yield _Reading(both, words, "exchanged", min(first, source), max(first, source) + page, page)


def _best_pair(asked: Attention, onset: int, page: int, offset: int) -> tuple[int, int] | None:
    """(first slot of the page that is wrong, first slot of the page that is read there, NOTHING for zeros).

    With e the exponentials of a query's scores and x the SUT's result, sum(e v) - x sum(e) is zero over the slots that
    are read. A page adds R to it, hence a page in another's place leaves |r - R + R'|^2 / (sum of e)^2, which needs
    inner products of pages alone.
    """
    count = (len(asked.k) - offset) // page
    queries = asked.at(np.flatnonzero(asked.positions >= onset + page))
    if count < 2 or not len(queries.positions):
        return None
    seen = (int(queries.positions.min()) + 1 - offset) // page
    wrong = np.arange(min(seen, count))
    if count > PAIRS:
        wrong = wrong[wrong == (onset - offset) // page]
    if not len(wrong):
        return None
    scores = (queries.scores() * queries.scale).clamp(-1e30, 1e30)
    groups, members, asks, _ = scores.shape
    future = queries.future()
    top = scores.masked_fill(future, -math.inf).amax(-1, keepdim=True)
    e = (scores - top).clamp(max=30).exp()
    x = queries.sut.view(asks, groups, members, -1).permute(1, 2, 0, 3)
    plain = e.masked_fill(future, 0.0)
    divisor = plain.sum(-1)
    r = torch.einsum("gjqt,tgk->gjqk", plain, queries.v) - x * divisor[..., None]
    stop = offset + count * page
    paged = e[..., offset:stop].unflatten(-1, (count, page))
    values = queries.v[offset:stop].unflatten(0, (count, page))
    sums = paged.sum(-1)
    parts = torch.einsum("gjqnp,npgk->gjqnk", paged, values) - x[..., None, :] * sums[..., None]
    # One page more: zeros, whose scores are 0 and whose values add nothing.
    none = page * (-top).clamp(max=30).exp()
    sums = torch.cat([sums, none], -1)
    parts = torch.cat([parts, (-x * none)[..., None, :]], -2)
    left, lost = parts[..., wrong, :], sums[..., wrong]
    base = (r[..., None, :] - left).square().sum(-1)
    size = parts.square().sum(-1)
    along = torch.einsum("gjqsk,gjqnk->gjqsn", r[..., None, :] - left, parts)
    rest = base[..., None] + 2 * along + size[..., None, :]
    total = (divisor[..., None] - lost)[..., None] + sums[..., None, :]
    cost = (rest.clamp(min=0) / total.clamp(min=1e-20).square()).sum((0, 1, 2))
    cost[torch.arange(len(wrong)), torch.from_numpy(wrong)] = math.inf
    cost = cost.nan_to_num(math.inf)
    best = int(cost.argmin())
    if not float(cost.flatten()[best]) <= (1 - LEAST_SHARE) * queries.error:
        return None
    row, source = divmod(best, count + 1)
    return offset + int(wrong[row]) * page, NOTHING if source == count else offset + source * page
