"""Per-head RMSNorm, then rotary position, of q and of k in one launch: device code."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: T tokens, H query heads, G kv heads, K head dim, J = K / 2; a row is one head of one token.


@triton.jit
def norm_rope_rows(
    x_ptr,
    weight_ptr,
    positions_ptr,
    inv_freq_ptr,
    norm_ptr,
    out_ptr,
    n_tokens,
    n_heads,
    x_stride_t,
    x_stride_h,
    norm_stride_t,
    norm_stride_h,
    out_stride_t,
    out_stride_h,
    eps,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Rows are token-major: row = token * n_heads + head. The two halves of a head are rotated against each other."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    token, head = (row // n_heads).to(tl.int64), row % n_heads
    row_ok = row < n_tokens * n_heads
    half: tl.constexpr = K // 2
    j = tl.arange(0, BLOCK_J)
    j_ok = j < half
    ok = row_ok[:, None] & j_ok[None, :]
    x_ptrs = (x_ptr + token * x_stride_t + head * x_stride_h)[:, None] + j[None, :]
    low = tl.load(x_ptrs, mask=ok, other=0.0).to(tl.float32)
    high = tl.load(x_ptrs + half, mask=ok, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(low * low + high * high, axis=1) / K + eps)[:, None]
    weight_low = tl.load(weight_ptr + j, mask=j_ok, other=0.0).to(tl.float32)[None, :]
    weight_high = tl.load(weight_ptr + half + j, mask=j_ok, other=0.0).to(tl.float32)[None, :]
    # The recipe rounds between norm and rope; the fused kernel keeps that rounding.
    low = (low * scale * weight_low).to(tl.bfloat16)
    high = (high * scale * weight_high).to(tl.bfloat16)
    if norm_ptr is not None:  # probe
        norm_ptrs = (norm_ptr + token * norm_stride_t + head * norm_stride_h)[:, None] + j[None, :]  # probe
        tl.store(norm_ptrs, low, mask=ok)  # probe
        tl.store(norm_ptrs + half, high, mask=ok)  # probe
    position = tl.load(positions_ptr + token, mask=row_ok, other=0).to(tl.float32)
    inv_freq = tl.load(inv_freq_ptr + j, mask=j_ok, other=0.0)
    angle = position[:, None] * inv_freq[None, :]
    cos, sin = tl.cos(angle), tl.sin(angle)
    low, high = low.to(tl.float32), high.to(tl.float32)
    out_ptrs = (out_ptr + token * out_stride_t + head * out_stride_h)[:, None] + j[None, :]
    tl.store(out_ptrs, (low * cos - high * sin).to(tl.bfloat16), mask=ok)
    tl.store(out_ptrs + half, (high * cos + low * sin).to(tl.bfloat16), mask=ok)


@triton.jit
def qk_norm_rope_kernel(
    q_ptr,  # [T, H, K] bf16, strides given, K dense
    k_ptr,  # [T, G, K] bf16
    q_weight_ptr,  # [K] bf16
    k_weight_ptr,  # [K] bf16
    positions_ptr,  # [T] int32 or int64
    inv_freq_ptr,  # [K / 2] fp32
    q_norm_ptr,  # [T, H, K] bf16 or None
    k_norm_ptr,  # [T, G, K] bf16 or None
    q_out_ptr,  # [T, H, K] bf16
    k_out_ptr,  # [T, G, K] bf16
    n_tokens,
    H,
    G,
    q_stride_t,
    q_stride_h,
    k_stride_t,
    k_stride_h,
    q_norm_stride_t,
    q_norm_stride_h,
    k_norm_stride_t,
    k_norm_stride_h,
    q_out_stride_t,
    q_out_stride_h,
    k_out_stride_t,
    k_out_stride_h,
    eps,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    if tl.program_id(1) == 0:
        norm_rope_rows(
            q_ptr, q_weight_ptr, positions_ptr, inv_freq_ptr, q_norm_ptr, q_out_ptr, n_tokens, H, q_stride_t,
            q_stride_h, q_norm_stride_t, q_norm_stride_h, q_out_stride_t, q_out_stride_h, eps, K, BLOCK_M, BLOCK_J,
        )  # fmt: skip
    elif tl.program_id(0) * BLOCK_M < n_tokens * G:
        norm_rope_rows(
            k_ptr, k_weight_ptr, positions_ptr, inv_freq_ptr, k_norm_ptr, k_out_ptr, n_tokens, G, k_stride_t,
            k_stride_h, k_norm_stride_t, k_norm_stride_h, k_out_stride_t, k_out_stride_h, eps, K, BLOCK_M, BLOCK_J,
        )  # fmt: skip
