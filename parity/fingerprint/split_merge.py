"""Are the keys taken in splits whose parts are merged with wrong weights? Each merge tried on the SUT's q, k and v."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.fingerprint.attend import FAR_OFF, FEW, Attention, attention_of, first_wrong_query
from parity.fingerprint.causes import CHUNK_BOUNDARY, PHASE_ONLY
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

SIZES = tuple(1 << n for n in range(4, 13))
"""Keys of a split, where a kernel fixes them."""

COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Splits of a query's keys, where a kernel fixes their number."""

COARSE = 16
"""Queries on which every merge is tried; the best one is judged on all sampled ones."""

Part = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Weight of each split from its largest score and the logarithm of its sum of exponentials; -inf of an empty one."""

MERGES: dict[str, Part] = {
    "all parts weigh the same": lambda top, total: torch.zeros_like(top).masked_fill(top == -math.inf, -math.inf),
    "each part weighs its sum of exponentials without its maximum": lambda top, total: total - top.clamp(min=-1e30),
    "each part weighs its maximum without its sum of exponentials": lambda top, total: top,
}
"""How the parts may be weighed in place of exp(maximum) times the sum; the weights add up to 1."""

SUMMED = "the parts are added up without a common divisor"


@dataclass(frozen=True)
class _Merge:
    """A number of keys for each split (count: of splits for each query), the rule, the first query it holds for."""

    keys: int
    count: int
    rule: str
    start: int

    def words(self) -> str:
        return f"{self.count} splits of the keys" if self.count else f"splits of {self.keys} keys"


@reads_values
def detect_split_merge(field: ErrorField) -> Fingerprint | None:
    """Find an `attn.context` that is the softmax of each split of the keys, the splits' results being merged without
    their right weights. score: the share of the error explained over the sampled queries.

    Wrong in one phase only where the other phase's rows are right, else wrong from the second split on. Needs the
    inputs attn.q_rope, attn.k_rope and attn.v of positions 0..T-1.
    """
    attention = attention_of(field)
    if attention is None or len(attention.k) <= SIZES[0]:
        return None
    coarse = attention.fewer(COARSE)
    few = coarse.fewer(FEW)
    some, scores = few.scores(), coarse.scores()
    tried = []
    for merges in _merges(field, len(attention.k)):
        near = [one for one, share in _explained(few, some, merges).items() if share > FAR_OFF]
        tried += [(share, one) for one, share in _explained(coarse, scores, near).items() if share >= LEAST_SHARE]
    if not tried:
        return None
    _, merge = max(tried, key=lambda one: one[0])
    whole = attention.scores()
    score, unchanged = _explained(attention, whole, [merge])[merge], attention.explained(scores=whole)
    if score < LEAST_SHARE or score - max(unchanged, 0.0) < LEAST_SHARE:
        return None
    first = max(merge.start, merge.keys if merge.keys else 1)
    phases = [] if field.phase is None else field.phase.tolist()
    after = sorted(set(phases[merge.start :]))
    alone = merge.start > 0 and len(after) == 1 and after[0] not in phases[: merge.start]
    numbers = {
        "merge": merge.rule,
        "keys_of_a_split": merge.keys or None,
        "splits": merge.count or None,
        "from_query": merge.start,
        "phase": after[0] if alone else None,
        "explained_by_right_merge": unchanged,
        "queries": len(attention.positions),
    }
    since = f", from query {merge.start} on ({after[0]})" if alone else ""
    sentence = (
        f"Attention computed here over {merge.words()}{since}, where {merge.rule}, gives the SUT's tensor: "
        f"{percent(score)} of the error. The parts of a split softmax are merged with wrong weights."
    )
    return Fingerprint(
        PHASE_ONLY if alone else CHUNK_BOUNDARY, score, numbers, sentence, Slice(positions=(first, field.tokens))
    )


def _merges(field: ErrorField, keys: int) -> Iterator[list[_Merge]]:
    """Every rule for one way to split, that of the next way, ..."""
    later = np.flatnonzero(field.row_launch != field.row_launch[0])
    starts = [0, int(field.row_position[later[0]])] if len(later) else [0]
    onset = first_wrong_query(field)
    for start in starts:
        # Queries that see one split are right.
        ways = [(size, 0) for size in SIZES if size < keys and (start or size <= onset + 1)]
        ways += [(0, count) for count in COUNTS if count <= keys]
        for size, count in ways:
            yield [_Merge(size, count, rule, start) for rule in (*MERGES, SUMMED)]


def _explained(attention: Attention, scores: torch.Tensor, merges: Sequence[_Merge]) -> dict[_Merge, float]:
    """Share that each merge of one way to split explains; queries before its start are right."""
    if not merges:
        return {}
    at = torch.from_numpy(attention.positions)
    masked = (scores * attention.scale).masked_fill(attention.future(), -math.inf)
    # The split of each key, [Q, T]: by number of keys, or by an even share of what the query sees.
    way = merges[0]
    length = torch.full_like(at, way.keys) if way.keys else -(-(at + 1) // way.count)
    split = torch.arange(scores.shape[-1])[None, :] // length[:, None]
    parts = int(split[torch.arange(len(at)), at].max()) + 1
    index = split.clamp(max=parts - 1).expand_as(masked)
    top = masked.new_full((*masked.shape[:-1], parts), -math.inf).scatter_reduce(-1, index, masked, "amax")
    finite = top.clamp(min=-1e30)
    shifted = (masked - finite.gather(-1, index)).exp()
    total = torch.zeros_like(top).scatter_add_(-1, index, shifted)
    inside = shifted / total.clamp(min=1e-30).gather(-1, index)
    right = (at < way.start)[:, None, None]
    found = {}
    for one in merges:
        weights = inside
        if one.rule != SUMMED:
            part = MERGES[one.rule](top, total.log() + finite).masked_fill(top == -math.inf, -math.inf)
            weights = inside * part.softmax(-1).gather(-1, index)
        context = attention.mixed(weights)
        found[one] = attention.explained_by(torch.where(right, attention.oracle, context))
    return found
