"""Which rows of the embedding table do the tokens of a step pick? Device code."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl


@triton.jit
def embed_kernel(
    ids_ptr,  # [T] int32 or int64
    weight_ptr,  # [V, D] bf16, row stride weight_stride
    out_ptr,  # [T, D] bf16, row stride out_stride
    n_tokens,
    vocabulary,
    D,
    weight_stride,
    out_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tokens = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    token_ok = tokens < n_tokens
    ids = tl.load(ids_ptr + tokens, mask=token_ok, other=0).to(tl.int64)
    # An id outside the table reads nothing and gives zeros: an engine's mistake must not become a wild read.
    known = token_ok & (ids >= 0) & (ids < vocabulary)
    col_ok = cols < D
    rows = tl.load(
        (weight_ptr + ids * weight_stride)[:, None] + cols[None, :], mask=known[:, None] & col_ok[None, :], other=0.0
    )
    out_rows = out_ptr + tokens.to(tl.int64) * out_stride
    tl.store(out_rows[:, None] + cols[None, :], rows, mask=token_ok[:, None] & col_ok[None, :])
