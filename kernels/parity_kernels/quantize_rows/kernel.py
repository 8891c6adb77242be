"""Rows of bf16 to E4M3 with a scale for every 128 columns: device code."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl


@triton.jit
def quantize_rows_kernel(
    x_ptr,  # [T, K] bf16, row stride x_stride
    q_ptr,  # [T, K] e4m3, contiguous
    s_ptr,  # [T, ceil(K / 128)] fp32, contiguous
    n_rows,
    x_stride,
    K,
    N_GROUPS,
    BLOCK_M: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    groups = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    cols = tl.program_id(1) * BLOCK_G * 128 + tl.arange(0, BLOCK_G * 128)
    row_ok = rows < n_rows
    wide = rows.to(tl.int64)
    ok = row_ok[:, None] & (cols < K)[None, :]
    # The last group of a row may be partial: its masked columns are zeros and never the largest.
    flat = tl.load((x_ptr + wide * x_stride)[:, None] + cols[None, :], mask=ok, other=0.0).to(tl.float32)
    x = tl.reshape(flat, (BLOCK_M, BLOCK_G, 128))
    # div_rn: the plain division of a compiled kernel is off by up to 2 ulp, and a quotient near a midpoint of two E4M3
    # values would then differ from the recipe's.
    scale = tl.div_rn(tl.maximum(tl.max(tl.abs(x), axis=2), 1e-10), 448.0)
    # No clamp: the cast saturates at 448, and a clamp would turn NaN into 448.
    q = tl.div_rn(x, tl.broadcast_to(scale[:, :, None], (BLOCK_M, BLOCK_G, 128))).to(tl.float8e4nv)
    q_rows = q_ptr + wide * K
    tl.store(q_rows[:, None] + cols[None, :], tl.reshape(q, (BLOCK_M, BLOCK_G * 128)), mask=ok)
    s_rows = s_ptr + wide * N_GROUPS
    tl.store(s_rows[:, None] + groups[None, :], scale, mask=row_ok[:, None] & (groups < N_GROUPS)[None, :])
