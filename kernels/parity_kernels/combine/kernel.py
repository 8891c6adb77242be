# type: ignore - Triton's language is not Python to a type checker
"""How do a token's expert rows become one row again? Device code: a gather with weights, fp32, slot order."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: T tokens, S slots, R expert rows, D hidden.


@triton.jit
def combine_kernel(
    down_ptr,  # [R, D], row stride down_stride
    slot_row_ptr,  # [T, S] int32 contiguous
    weights_ptr,  # [T, S] fp32 contiguous
    out_ptr,  # [T, D] contiguous
    n_tokens,
    n_rows,
    down_stride,
    D: tl.constexpr,
    S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    token_ok = tokens < n_tokens
    col_ok = cols < D
    wide = tokens.to(tl.int64)
    total = tl.zeros([BLOCK_T, BLOCK_D], dtype=tl.float32)
    for slot in range(S):
        row = tl.load(slot_row_ptr + wide * S + slot, mask=token_ok, other=0)
        weight = tl.load(weights_ptr + wide * S + slot, mask=token_ok, other=0.0)
        inside = token_ok & (row >= 0) & (row < n_rows)
        # A row that does not exist becomes NaN: loud, where 0 would look like a small expert.
        value = tl.load(
            down_ptr + (row.to(tl.int64) * down_stride)[:, None] + cols[None, :],
            mask=inside[:, None] & col_ok[None, :],
            other=float("nan"),
        )
        total += weight[:, None] * value.to(tl.float32)
    ok = token_ok[:, None] & col_ok[None, :]
    tl.store(out_ptr + (wide * D)[:, None] + cols[None, :], total.to(out_ptr.dtype.element_ty), mask=ok)
