"""What would attention give under another scale, reach, or cache? Computed from the SUT's own q, k and v."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.evidence import change_point
from parity.fingerprint.field import ErrorField

QUERIES = 48
"""Queries computed, evenly spread over the positions: what is looked for holds for all of them."""


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

    @property
    def error(self) -> float:
        """Energy of the error over the sampled queries."""
        return float((self.sut - self.oracle).square().sum())

    def fewer(self, count: int) -> Attention:
        """The same of every n-th query, at most `count`."""
        at = np.unique(np.linspace(0, len(self.positions) - 1, min(count, len(self.positions))).round().astype(int))
        rows = torch.from_numpy(at)
        return replace(self, positions=self.positions[at], q=self.q[rows], sut=self.sut[rows], oracle=self.oracle[rows])

    def scores(self, k: torch.Tensor | None = None) -> torch.Tensor:
        """[G, J, Q, T] unscaled products of queries and keys, J query heads of each key head."""
        k = self.k if k is None else k
        queries, heads, width = self.q.shape
        groups = k.shape[1]
        grouped = self.q.view(queries, groups, heads // groups, width).permute(1, 2, 0, 3)
        return grouped @ k.permute(1, 2, 0)[:, None]

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
        scores = self.scores() if scores is None else scores
        hidden = self.future() if hidden is None else hidden
        weights = (scores * (self.scale if scale is None else scale)).masked_fill(hidden, -math.inf).softmax(-1)
        mixed = weights.nan_to_num(0.0) @ (self.v if v is None else v).transpose(0, 1)[:, None]
        return mixed.permute(2, 0, 1, 3).reshape(self.q.shape)

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
        if not self.error > 0:
            return 0.0
        rest = self.sut - self.context(scale=scale, hidden=hidden, scores=scores, v=v)
        return 1 - float(rest.square().sum()) / self.error


def attention_of(field: ErrorField) -> Attention | None:
    """The sampled attention of an `attn.context` field over positions 0..T-1; None for any other, or without inputs.

    None as well without an error in the sampled queries.
    """
    q, k, v = (field.inputs.get(name) for name in ("attn.q_rope", "attn.k_rope", "attn.v"))
    if field.stage != "attn.context" or q is None or k is None or v is None or not field.tokens:
        return None
    if q.shape != field.sut.shape or q.ndim != 3 or k.ndim != 3 or k.shape != v.shape or len(k) != len(q):
        return None
    if q.shape[2] != k.shape[2] or not k.shape[1] or q.shape[1] % k.shape[1]:
        return None
    if not np.array_equal(field.row_position, np.arange(field.tokens)):
        return None
    at = np.unique(np.linspace(0, field.tokens - 1, min(QUERIES, field.tokens)).round().astype(np.int64))
    wide = [torch.nan_to_num(t.detach().to("cpu", torch.float32), 0.0, 0.0, 0.0) for t in (q, k, v)]
    shape = field.sut.shape
    sut, oracle = field.x.view(shape)[at], field.y.view(shape)[at]
    attention = Attention(at, wide[0][at].contiguous(), wide[1], wide[2], sut, oracle)
    return attention if attention.error > 0 else None


def first_wrong_query(field: ErrorField) -> int:
    """The first token of the part of the field that is wrong; 0 where all of it is."""
    yy, _, dd = field.sums.rows
    return change_point(np.divide(dd, yy, out=np.zeros_like(dd), where=yy > 0))
