"""What does causal grouped-query attention give in each recipe? Exact softmax, or the online one with a BF16 P.

Letters: T queries, C keys at positions 0..C-1, H query heads, G key/value heads, K head dim, J = H/G heads a group.
Source of the online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867; blocked with V: Dao 2023, arXiv 2307.08691.
"""

from __future__ import annotations

import math

import torch

from parity_oracles.recipes.arithmetic import ORDERS, Arithmetic, Order
from parity_oracles.recipes.tensor_core import sum_bf16

QUERY_ROWS, LEAST_ROWS, SCORES = 256, 16, 1 << 15
"""Queries done at a time, at most and at least, and the scores of one head that they may have: the memory of the scores
does not grow with the prompt. It changes nothing in a row's own arithmetic."""


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    positions: torch.Tensor,
    arithmetic: Arithmetic,
    order: Order,
) -> torch.Tensor:
    """Softmax-weighted sum of the values that each query may see.

    q: [T, H, K]. k, v: [C, G, K], key j at position j. positions: [T] int64; a query sees keys 0..position.
    Returns [T, H, K] in the compute dtype, unrounded. Scores are scaled by 1/sqrt(K).
    """
    tokens, heads, width = q.shape
    groups = k.shape[1]
    if arithmetic.cache is not None:
        q, k, v = q.to(arithmetic.cache), k.to(arithmetic.cache), v.to(arithmetic.cache)
    q, k, v = arithmetic.enter(q), arithmetic.enter(k).transpose(0, 1), arithmetic.enter(v).transpose(0, 1)
    out = torch.empty(tokens, heads, width, dtype=arithmetic.compute)
    step = max(min(QUERY_ROWS, SCORES // max(k.shape[1], 1)), LEAST_ROWS)
    for start in range(0, tokens, step):
        part, at = q[start : start + step], positions[start : start + step]
        rows = len(part)
        reach = int(at.max()) + 1
        # [rows, G, J, K] -> [G, J * rows, K]: the heads of a group share its keys in one product.
        grouped = part.view(rows, groups, -1, width).permute(1, 2, 0, 3).reshape(groups, -1, width)
        seen = at.repeat(heads // groups)
        # In FP32 order 0 is the truth, softmax as it is written; fused kernels in FP32 are the other orders.
        wide = arithmetic.boundary is None
        fused = arithmetic.compute == torch.float32 and arithmetic.ggml is None and order != ORDERS[0]
        plain = arithmetic.materialized or (wide and not fused)
        core = _by_key if arithmetic.fused else _plain if plain else _online
        mixed = core(grouped, k[:, :reach], v[:, :reach], seen, arithmetic, order)
        out[start : start + rows] = mixed.view(groups, -1, rows, width).permute(2, 0, 1, 3).reshape(rows, heads, width)
    return out


def _plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, arithmetic: Arithmetic, order: Order
) -> torch.Tensor:
    product = sum_bf16(q, k) if order.tensor_core and arithmetic.materialized else q @ k.transpose(1, 2)
    # What leave and enter do is a rounding in recipes that have one, and nothing in the others.
    scores = arithmetic.enter(arithmetic.leave(product)) * q.shape[-1] ** -0.5
    del product  # as large as the scores themselves
    scores = arithmetic.enter(arithmetic.leave(scores))
    scores.masked_fill_(torch.arange(k.shape[1]) > seen[:, None], -math.inf)
    shares = arithmetic.enter(arithmetic.leave(scores.softmax(-1)))
    if arithmetic.cache is not None:
        shares = shares.to(arithmetic.cache).to(arithmetic.compute)
    return shares @ v


def _online(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, arithmetic: Arithmetic, order: Order
) -> torch.Tensor:
    """fp32 scores, running maximum and sum; P = exp(score - running maximum) rounded before it meets V, the row sum
    taken of the unrounded P; one division at the end. A matrix unit adds P V onto the rescaled accumulator."""
    groups, rows, width = q.shape
    exponential = _exp2 if order.base2 else torch.exp
    units = order.tensor_core is not None and arithmetic.boundary is not None
    top = q.new_full((groups, rows, 1), -math.inf)
    total = q.new_zeros((groups, rows, 1))
    mixed = q.new_zeros((groups, rows, width))
    step = order.kv_block or k.shape[1]
    for first in range(0, k.shape[1], step):
        keys = torch.arange(first, min(first + step, k.shape[1]))
        near = k[:, keys[0] : keys[-1] + 1]
        scores = (sum_bf16(q, near) if units else q @ near.transpose(1, 2)) * width**-0.5
        if int(keys[-1]) > int(seen.min()):
            scores.masked_fill_(keys > seen[:, None], -math.inf)
        new_top = torch.maximum(top, scores.amax(-1, keepdim=True))
        p = exponential(scores.sub_(new_top))
        decay = exponential(top - new_top)
        total = total * decay + p.sum(-1, keepdim=True)
        rounded = arithmetic.enter(arithmetic.leave(p))
        values = v[:, keys[0] : keys[-1] + 1]
        before = mixed * decay
        mixed = sum_bf16(rounded, values.transpose(1, 2), before) if units else before + rounded @ values
        top = new_top
    return mixed / total


def _by_key(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, arithmetic: Arithmetic, order: Order
) -> torch.Tensor:
    """ggml's fused attention on the CPU: one key after the other, P V accumulated in the cache's dtype.

    Source: `ggml_compute_forward_flash_attn_ext_f16` of ggml-cpu/ops.cpp.
    """
    assert arithmetic.cache is not None
    scores = (q @ k.transpose(1, 2)) * q.shape[-1] ** -0.5
    scores.masked_fill_(torch.arange(k.shape[1]) > seen[:, None], -math.inf)
    tops = scores.cummax(-1).values
    mixed, total = torch.zeros_like(q), torch.zeros_like(q[..., :1])
    for key in range(k.shape[1]):
        top = tops[..., key, None]
        share = torch.exp(scores[..., key, None] - top)
        if key:
            decay = torch.exp(tops[..., key - 1, None] - top)
            mixed, total = (mixed * decay).to(arithmetic.cache).to(q.dtype), total * decay
        mixed = (mixed + share * v[:, key, None]).to(arithmetic.cache).to(q.dtype)
        total = total + share
    return mixed / total


def _exp2(x: torch.Tensor) -> torch.Tensor:
    return torch.exp2(x * math.log2(math.e))
