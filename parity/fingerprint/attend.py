"""What would attention give under another softmax scale or reach? Computed from the SUT's own q, k and v."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

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

    def scores(self) -> torch.Tensor:
        """[G, J, Q, T] unscaled products of queries and keys."""
        queries, heads, width = self.q.shape
        groups = self.k.shape[1]
        grouped = self.q.view(queries, groups, heads // groups, width).permute(1, 2, 0, 3)
        return grouped @ self.k.permute(1, 2, 0)[:, None]

    def context(
        self, *, scale: float, oldest: NDArray[np.int64] | None = None, scores: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[Q, H, K]: softmax(scale * scores) v over keys `oldest`..position of each query."""
        scores = self.scores() if scores is None else scores
        keys = torch.arange(len(self.k))
        at = torch.from_numpy(self.positions)
        hidden = keys > at[:, None]
        if oldest is not None:
            hidden |= keys < torch.from_numpy(oldest)[:, None]
        weights = (scores * scale).masked_fill(hidden, -math.inf).softmax(-1)
        mixed = weights @ self.v.transpose(0, 1)[:, None]
        return mixed.permute(2, 0, 1, 3).reshape(self.q.shape)

    def residual(
        self, *, scale: float, oldest: NDArray[np.int64] | None = None, scores: torch.Tensor | None = None
    ) -> tuple[float, float]:
        """(energy of the SUT less this attention, energy of the error) over the sampled queries."""
        rest = self.sut - self.context(scale=scale, oldest=oldest, scores=scores)
        return float(rest.square().sum()), float((self.sut - self.oracle).square().sum())


def attention_of(field: ErrorField) -> Attention | None:
    """The sampled attention of an `attn.context` field over positions 0..T-1; None for any other, or without inputs."""
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
    return Attention(at, wide[0][at].contiguous(), wide[1], wide[2], sut, oracle)
