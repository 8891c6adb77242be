"""Residual add and RMSNorm of whole rows: device code, Triton."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl


@triton.jit
def add_rmsnorm_kernel(
    x_ptr,  # [T, D] bf16, row stride x_stride
    residual_ptr,  # [T, D] bf16, row stride residual_stride; None: nothing is added
    weight_ptr,  # [D] bf16
    out_ptr,  # [T, D] bf16, row stride out_stride
    sum_ptr,  # [T, D] bf16, row stride sum_stride; None exactly when residual_ptr is
    n_rows,
    x_stride,
    residual_stride,
    out_stride,
    sum_stride,
    eps,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_D)
    wide = rows.to(tl.int64)
    ok = (rows < n_rows)[:, None] & (cols < D)[None, :]
    x = tl.load((x_ptr + wide * x_stride)[:, None] + cols[None, :], mask=ok, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        residual = tl.load((residual_ptr + wide * residual_stride)[:, None] + cols[None, :], mask=ok, other=0.0)
        summed = (x + residual.to(tl.float32)).to(tl.bfloat16)
        tl.store((sum_ptr + wide * sum_stride)[:, None] + cols[None, :], summed, mask=ok)
        x = summed.to(tl.float32)  # the norm is of the rounded sum: the residual stream is bf16
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)
    weight = tl.load(weight_ptr + cols, mask=cols < D, other=0.0).to(tl.float32)
    normed = x * scale[:, None] * weight[None, :]
    tl.store((out_ptr + wide * out_stride)[:, None] + cols[None, :], normed.to(tl.bfloat16), mask=ok)
