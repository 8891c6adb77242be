"""What would attention give under another scale, reach, or cache? Computed from the SUT's own q, k and v."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.evidence import LEAST_SHARE, change_point
from parity.fingerprint.field import ErrorField, finite_values
from parity.fingerprint.sums import squared_norm

QUERIES = 48
"""Queries computed: half of them evenly spread over the positions, half over those that carry the error (LOST), which
may be few: the tokens of a decode."""

LOST = 0.25
"""Share of the mean squared error from which on a token carries the error."""

FEW, FAR_OFF = 4, -20.0
"""Queries on which anything is tried first, and the share "explained" there below which it is let go: what leaves
twenty times the error in some queries does not explain half of it in four times as many."""


MOST = 0.75
"""Share of the rows that carry the error of which a prediction that holds explains half: noise as large as LOST of the
mean error, FP8's in an error of 6 % and less, leaves the others."""


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention of a sample of queries over all keys.

    positions: [Q] of the sampled queries, index into keys. q: [Q, H, K]; k, v: [T, G, K]; sut, oracle: [Q, H, K].
    """

    positions: NDArray[np.int64]
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    sut: torch.Tensor
    oracle: torch.Tensor

    @property
    def head_dim(self) -> int:
        return self.q.shape[2]

    @property
    def scale(self) -> float:
        """1/sqrt(K), which the oracle applies."""
        return 1 / math.sqrt(self.head_dim)

    @cached_property
    def error(self) -> float:
        """Energy of the error over the sampled queries."""
        return squared_norm(self.sut - self.oracle)

    def fewer(self, count: int) -> Attention:
        """The same of every n-th query, at most `count`."""
        at = np.unique(np.linspace(0, len(self.positions) - 1, min(count, len(self.positions))).round().astype(int))
        return self.at(at)

    def at(self, queries: NDArray[np.int64]) -> Attention:
        """The same of these queries, numbers into the sampled ones."""
        rows = torch.from_numpy(queries)
        taken = self.positions[queries]
        return replace(self, positions=taken, q=self.q[rows], sut=self.sut[rows], oracle=self.oracle[rows])

    def of_heads(self, heads: NDArray[np.int64]) -> Attention:
        """The same of some query heads alone, each beside a copy of the key/value head that it reads."""
        at = torch.from_numpy(heads)
        read = at // (self.q.shape[1] // self.k.shape[1])
        q, sut, oracle = (t[:, at].contiguous() for t in (self.q, self.sut, self.oracle))
        return replace(self, q=q, k=self.k[:, read], v=self.v[:, read], sut=sut, oracle=oracle)

    def scores(self, k: torch.Tensor | None = None) -> torch.Tensor:
        """[G, J, Q, T] unscaled products of queries and keys, J query heads of each key head."""
        k = self.k if k is None else k
        queries, heads, width = self.q.shape
        groups = k.shape[1]
        # Query heads of one key head are rows of one product: a broadcast would copy the keys for each.
        grouped = self.q.view(queries, groups, heads // groups, width).permute(1, 2, 0, 3)
        flat = grouped.reshape(groups, -1, width) @ k.permute(1, 2, 0)
        return flat.view(groups, heads // groups, queries, len(k))

    def future(self) -> torch.Tensor:
        """[Q, T] bool: keys after each query, which causal attention hides."""
        return torch.arange(len(self.k)) > torch.from_numpy(self.positions)[:, None]

    def context(
        self,
        *,
        scale: float | None = None,
        hidden: torch.Tensor | None = None,
        scores: torch.Tensor | None = None,
        v: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[Q, H, K]: softmax(scale * scores) v over keys that are not `hidden` [Q, T]; 0 where all are."""
        return self.mixed(self.weights(self.scores() if scores is None else scores, scale=scale, hidden=hidden), v)

    def weights(
        self, scores: torch.Tensor, *, scale: float | None = None, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[G, J, Q, T]: softmax(scale * scores) over keys that are not `hidden` [Q, T]; 0 where all are."""
        hidden = self.future() if hidden is None else hidden
        weights = (scores * (self.scale if scale is None else scale)).masked_fill_(hidden, -math.inf).softmax(-1)
        if bool(hidden.all(-1).any()):
            weights = weights.nan_to_num(0.0)
        return weights

    def mixed(self, weights: torch.Tensor, v: torch.Tensor | None = None) -> torch.Tensor:
        """[Q, H, K]: the values (the SUT's own) under such weights."""
        mixed = weights.flatten(1, 2) @ (self.v if v is None else v).transpose(0, 1)
        return mixed.view(*weights.shape[:3], -1).permute(2, 0, 1, 3).reshape(self.q.shape)

    def explained(
        self,
        *,
        scale: float | None = None,
        hidden: torch.Tensor | None = None,
        scores: torch.Tensor | None = None,
        v: torch.Tensor | None = None,
    ) -> float:
        """Share of the error that attention of these arguments explains, over the sampled queries; 0 where these have
        none."""
        return self.explained_by(self.context(scale=scale, hidden=hidden, scores=scores, v=v))

    def explained_by(self, context: torch.Tensor) -> float:
        """Share of the error that a context [Q, H, K] explains; 0 where there is none."""
        return 1 - squared_norm(self.sut - context) / self.error if self.error > 0 else 0.0

    def agrees(self, context: torch.Tensor) -> bool:
        """Whether a context [Q, H, K] explains half of the error in MOST of the query heads' rows that carry it.

        What is fitted to the largest errors alone does not.
        """
        left = (self.sut - context).square().sum(2)
        error = (self.sut - self.oracle).square().sum(2)
        carry = error >= LOST * error.mean()
        return bool((left[carry] < LEAST_SHARE * error[carry]).float().mean() >= MOST)


def attention_of(field: ErrorField) -> Attention | None:
    """The sampled attention of an `attn.context` field over positions 0..T-1; None for any other, or without inputs.

    None as well without an error in the sampled queries.
    """
    if field not in _KNOWN:
        _KNOWN[field] = _sampled(field)
    return _KNOWN[field]


_KNOWN: weakref.WeakKeyDictionary[ErrorField, Attention | None] = weakref.WeakKeyDictionary()


def _sampled(field: ErrorField) -> Attention | None:
    q, k, v = (field.inputs.get(name) for name in ("attn.q_rope", "attn.k_rope", "attn.v"))
    if field.stage != "attn.context" or q is None or k is None or v is None or not field.tokens:
        return None
    if q.shape != field.sut.shape or q.ndim != 3 or k.ndim != 3 or k.shape != v.shape or len(k) != len(q):
        return None
    if q.shape[2] != k.shape[2] or not k.shape[1] or q.shape[1] % k.shape[1]:
        return None
    if not np.array_equal(field.row_position, np.arange(field.tokens)):
        return None
    at = _queries(field)
    wide = [finite_values(t) for t in (q, k, v)]
    shape = field.sut.shape
    sut, oracle = field.x.view(shape)[at], field.y.view(shape)[at]
    attention = Attention(at, wide[0][at].contiguous(), wide[1], wide[2], sut, oracle)
    return attention if attention.error > 0 else None


def _queries(field: ErrorField) -> NDArray[np.int64]:
    """Which tokens are computed, ascending."""
    lost = field.sums.dd.sum(1)
    wrong = np.flatnonzero(lost >= LOST * lost.mean())
    half = min(QUERIES // 2, field.tokens)
    some = np.linspace(0, field.tokens - 1, half).round().astype(np.int64)
    more = wrong[np.linspace(0, len(wrong) - 1, min(QUERIES // 2, len(wrong))).round().astype(np.int64)]
    return np.unique(np.concatenate([some, more]))


def first_wrong_query(field: ErrorField) -> int:
    """The first token of the part of the field that is wrong; 0 where all of it is."""
    yy, _, dd = field.sums.rows
    return change_point(np.divide(dd, yy, out=np.zeros_like(dd), where=yy > 0))
