"""Causal grouped-query attention over the cache: packed (and chunked) prefill, and decode of one token a request."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity.errors import ShapeError
from parity_kernels.arguments import (
    require_dense,
    require_dtype,
    require_same_device,
    require_shape,
    require_within,
)
from parity_kernels.attention.kernel import attention_decode_kernel, attention_prefill_kernel
from parity_kernels.attention.launch import attention_decode_launch, attention_prefill_launch
from parity_kernels.launch import Launch, LaunchFunction, sized

# A launch is no Python call to a type checker.
_attention_prefill: Any = attention_prefill_kernel
_attention_decode: Any = attention_decode_kernel

HEAD_DIMS = (16, 32, 64, 128, 256)


def attention_prefill(
    q: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    *,
    row_start: torch.Tensor,
    slots: torch.Tensor,
    first_position: torch.Tensor,
    max_rows: int,
    max_context: int,
    scale: float,
    out: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> torch.Tensor:
    """Softmax(scale * q k^T) v for packed rows; row i of request b sees cache positions 0 .. first_position[b] + i.

    q: [T, H, K] bf16 or fp16, K in 16 .. 256 a power of two and dense; rows and heads may be strided. T may be 0.
    cache_k, cache_v: [slots, L, G, K] of q's dtype, H a multiple of G; keys of this step's rows are already written.
      Nothing beyond a request's last row is read.
    row_start: [B+1] int32, cumulative; slots, first_position: [B] int32. A request may have no rows.
    max_rows, max_context: of the longest request; max_context <= L.
    Returns [T, H, K] in q's dtype. Scores, softmax, row sum and P @ V accumulate in fp32, P = exp(s - running maximum)
    is rounded to q's dtype before P @ V.
    Raises ShapeError, DtypeError, ValueRangeError (looked for on the CPU only) before anything is launched.
    Source: Milakov & Gimelshein 2018, arXiv 1805.02867, alg. 3; Dao 2023, arXiv 2307.08691, alg. 1.
    """
    out = _check("attention_prefill", q, cache_k, cache_v, max_context, out)
    n_requests = slots.shape[0] if slots.dim() == 1 else -1
    for name, index, extent, high in (
        ("row_start", row_start, n_requests + 1, q.shape[0]),
        ("slots", slots, n_requests, cache_k.shape[0] - 1),
        ("first_position", first_position, n_requests, cache_k.shape[1] - 1),
    ):
        require_shape(f"attention_prefill: {name}", index, (extent,))
        require_dtype(f"attention_prefill: {name}", index, torch.int32)
        require_dense(f"attention_prefill: {name}", index)
        require_within(f"attention_prefill: {name}", index, 0, high)
    require_same_device("attention_prefill", q=q, row_start=row_start, slots=slots, first_position=first_position)
    n_heads, head_dim = q.shape[1:]
    if q.numel() == 0 or n_requests == 0:
        return out
    launch = sized(
        launch, attention_prefill_launch, max_rows=max_rows, n_heads=n_heads, n_requests=n_requests, head_dim=head_dim
    )
    if 0 in launch.grid:
        return out
    _attention_prefill[launch.grid](
        q,
        cache_k,
        cache_v,
        out,
        row_start,
        slots,
        first_position,
        scale,
        *_strides(q, cache_k, cache_v),
        H=n_heads,
        G=cache_k.shape[2],
        K=head_dim,
        BLOCK_M=launch.block["m"],
        BLOCK_N=launch.block["n"],
        num_warps=8 if head_dim >= 128 else 4,
        num_stages=2,
    )
    return out


def attention_decode(
    q: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    *,
    slots: torch.Tensor,
    positions: torch.Tensor,
    max_context: int,
    scale: float,
    out: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> torch.Tensor:
    """The same for one query row a request: row b sees positions 0 .. positions[b] of slot slots[b].

    q: [B, H, K]; slots [B] int32; positions [B] int32 or int64, at least 0. B may be 0. Everything else, the
    accumulation and the key tiles included, as in attention_prefill.
    """
    out = _check("attention_decode", q, cache_k, cache_v, max_context, out)
    for name, index, high, dtypes in (
        ("slots", slots, cache_k.shape[0] - 1, (torch.int32,)),
        ("positions", positions, cache_k.shape[1] - 1, (torch.int32, torch.int64)),
    ):
        require_shape(f"attention_decode: {name}", index, (q.shape[0],))
        require_dtype(f"attention_decode: {name}", index, *dtypes)
        require_dense(f"attention_decode: {name}", index)
        require_within(f"attention_decode: {name}", index, 0, high)
    require_same_device("attention_decode", q=q, slots=slots, positions=positions)
    if q.numel() == 0:
        return out
    n_requests, n_heads, head_dim = q.shape
    launch = sized(
        launch,
        attention_decode_launch,
        n_requests=n_requests,
        n_heads=n_heads,
        n_kv_heads=cache_k.shape[2],
        head_dim=head_dim,
    )
    _attention_decode[launch.grid](
        q,
        cache_k,
        cache_v,
        out,
        slots,
        positions,
        scale,
        *_strides(q, cache_k, cache_v),
        H=n_heads,
        G=cache_k.shape[2],
        K=head_dim,
        BLOCK_H=launch.block["h"],
        BLOCK_N=launch.block["n"],
        num_warps=4,
        num_stages=2,
    )
    return out


def _strides(q: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor) -> tuple[int, ...]:
    return (*q.stride()[:2], *cache_k.stride()[:3], *cache_v.stride()[:3])


def _check(
    op: str, q: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor, max_context: int, out: torch.Tensor | None
) -> torch.Tensor:
    """What both ops ask of q and the caches; returns the output buffer."""
    require_shape(f"{op}: q", q, (None, None, None))
    n_rows, n_heads, head_dim = q.shape
    if head_dim not in HEAD_DIMS:
        raise ShapeError(
            place=f"{op}: q",
            expected=f"a head dim in {HEAD_DIMS}",
            found=str(head_dim),
            next_step="Pad the heads on purpose, or add the tile and its tests; a wider tile would read the next head.",
        )
    require_dtype(f"{op}: q", q, torch.bfloat16, torch.float16)
    require_dense(f"{op}: q", q, from_dim=2)
    require_shape(f"{op}: cache_k", cache_k, (None, None, None, head_dim))
    require_shape(f"{op}: cache_v", cache_v, tuple(cache_k.shape))
    for name, cache in (("cache_k", cache_k), ("cache_v", cache_v)):
        require_dtype(f"{op}: {name}", cache, q.dtype)
        require_dense(f"{op}: {name}", cache, from_dim=3)
    kv_heads = cache_k.shape[2]
    if kv_heads == 0 or n_heads % kv_heads:
        raise ShapeError(
            place=f"{op}: heads",
            expected="a number of query heads that is a multiple of the kv heads",
            found=f"{n_heads} query heads, {kv_heads} kv heads",
            next_step="Check the cache's head axis and the model's head counts.",
        )
    if max_context > cache_k.shape[1]:
        raise ShapeError(
            place=f"{op}: max_context",
            expected=f"at most the cache's {cache_k.shape[1]} positions",
            found=str(max_context),
            next_step="Allocate a longer cache.",
        )
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    require_shape(f"{op}: out", out, (n_rows, n_heads, head_dim))
    require_dtype(f"{op}: out", out, q.dtype)
    require_dense(f"{op}: out", out)
    require_same_device(op, q=q, cache_k=cache_k, cache_v=cache_v, out=out)
    return out
