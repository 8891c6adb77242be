"""y = x W^T of a tile: device code, block-FP8 and bf16."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: T rows of x, N columns of y, K reduced; x [T, K], W [N, K], y [T, N].


@triton.jit
def linear_fp8_kernel(
    q_ptr,  # [T, K] e4m3, contiguous
    s_ptr,  # [T, ceil(K/128)] fp32, contiguous
    weight_ptr,  # [N, K] e4m3, contiguous
    scale_ptr,  # [ceil(N/128), ceil(K/128)] fp32, contiguous
    out_ptr,  # [T, N] bf16, row stride out_stride
    T,
    N,
    K,
    N_GROUPS,  # ceil(K / 128)
    out_stride,
    IMPRECISE_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, 128)
    row_ok, col_ok = rows < T, cols < N
    wide_rows, wide_cols = rows.to(tl.int64), cols.to(tl.int64)
    q_ptrs = (q_ptr + wide_rows * K)[:, None] + ks[None, :]
    w_ptrs = (weight_ptr + wide_cols * K)[:, None] + ks[None, :]
    s_ptrs = s_ptr + wide_rows * N_GROUPS
    scale_ptrs = scale_ptr + (cols // 128) * N_GROUPS
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for group in range(0, N_GROUPS):
        k_ok = ks < K - group * 128
        q = tl.load(q_ptrs, mask=row_ok[:, None] & k_ok[None, :], other=0.0)
        w = tl.load(w_ptrs, mask=col_ok[:, None] & k_ok[None, :], other=0.0)
        s = tl.load(s_ptrs + group, mask=row_ok, other=0.0)
        scale = tl.load(scale_ptrs + group, mask=col_ok, other=0.0)
        # One fp32 partial sum per 128 columns of K, scaled, then added in K order: the recipe's order.
        partial = tl.dot(q, tl.trans(w), max_num_imprecise_acc=IMPRECISE_K, out_dtype=tl.float32)
        total += partial * (s[:, None] * scale[None, :])
        q_ptrs += 128
        w_ptrs += 128
    out_ptrs = (out_ptr + wide_rows * out_stride)[:, None] + cols[None, :]
    tl.store(out_ptrs, total.to(tl.bfloat16), mask=row_ok[:, None] & col_ok[None, :])


@triton.jit
def linear_bf16_kernel(
    x_ptr,  # [T, K] bf16, row stride x_stride
    weight_ptr,  # [N, K] bf16, row stride weight_stride
    out_ptr,  # [T, N] bf16 or fp32, row stride out_stride
    T,
    N,
    K,
    x_stride,
    weight_stride,
    out_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    row_ok, col_ok = rows < T, cols < N
    wide_rows, wide_cols = rows.to(tl.int64), cols.to(tl.int64)
    x_ptrs = (x_ptr + wide_rows * x_stride)[:, None] + ks[None, :]
    w_ptrs = (weight_ptr + wide_cols * weight_stride)[:, None] + ks[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k_ok = ks < K - start
        x = tl.load(x_ptrs, mask=row_ok[:, None] & k_ok[None, :], other=0.0)
        w = tl.load(w_ptrs, mask=col_ok[:, None] & k_ok[None, :], other=0.0)
        total = tl.dot(x, tl.trans(w), acc=total)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    out_ptrs = (out_ptr + wide_rows * out_stride)[:, None] + cols[None, :]
    tl.store(out_ptrs, total.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & col_ok[None, :])
