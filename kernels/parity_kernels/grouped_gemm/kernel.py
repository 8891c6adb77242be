# type: ignore - Triton's language is not Python to a type checker
"""How are the rows of each expert multiplied by that expert's weight? Device code, block-FP8 and bf16.

A program is one (row tile of an expert, column tile over all its parts, expert). Rows of an expert that no tile of the
grid reaches are not written: nothing here can notice that, see launch.py.
"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: R expert rows sorted by expert, M rows of x, E experts, P parts (gate and up: 2), N columns a part, K depth.
# The P parts of an expert are one matrix of P*N rows to a tile; only its scales know where a part begins.


@triton.jit
def grouped_gemm_fp8_kernel(
    x_ptr,  # [M, K] e4m3, row stride x_stride
    x_scale_ptr,  # [M, ceil(K/128)] fp32, row stride x_scale_stride
    weight_ptr,  # [E, P, N, K] e4m3 contiguous
    weight_scale_ptr,  # [E, P, ceil(N/128), ceil(K/128)] fp32 contiguous
    out_ptr,  # [R, P, N] bf16 contiguous
    expert_offsets_ptr,  # [E + 1] int32
    row_index_ptr,  # [R] int32 or None
    n_x_rows,
    n_rows,
    x_stride,
    x_scale_stride,
    P: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    BLOCK_K: tl.constexpr = 128  # the format's block: one activation scale, one weight scale
    K_BLOCKS: tl.constexpr = (K + 127) // 128
    SCALE_ROWS: tl.constexpr = (N + 127) // 128
    expert = tl.program_id(2)
    offsets_ptr = expert_offsets_ptr + expert
    end = tl.load(offsets_ptr + 1)
    tile_start = tl.load(offsets_ptr) + tl.program_id(0) * BLOCK_M
    if tile_start >= end:
        return

    rows = tile_start + tl.arange(0, BLOCK_M)
    row_ok = rows < tl.minimum(end, n_rows)
    source = rows
    if row_index_ptr is not None:
        source = tl.load(row_index_ptr + rows, mask=row_ok, other=0)
    # Rows and columns past the end read the last ones again, and are not stored: cheaper than a mask in the loop.
    source = tl.minimum(tl.maximum(source, 0), n_x_rows - 1).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = cols < P * N
    safe_cols = tl.minimum(cols, P * N - 1)
    depth = tl.arange(0, BLOCK_K)
    # int64: 128 experts of 2 x 768 x 2048 are 2^28.6 elements, larger models pass 2^31.
    matrix = expert.to(tl.int64) * (P * N * K)
    x_ptrs = x_ptr + (source * x_stride)[:, None] + depth[None, :]
    weight_ptrs = weight_ptr + matrix + (safe_cols * K)[:, None] + depth[None, :]
    x_scale_ptrs = x_scale_ptr + source * x_scale_stride
    # A tile inside one block of rows of one part has one weight scale, a scalar; else each column looks up its own.
    ONE_SCALE: tl.constexpr = (N % BLOCK_N == 0) and (128 % BLOCK_N == 0)
    scale_col = tl.program_id(1) * BLOCK_N if ONE_SCALE else safe_cols
    scale_row = scale_col // N * SCALE_ROWS + scale_col % N // 128
    weight_scale_ptrs = weight_scale_ptr + (expert.to(tl.int64) * (P * SCALE_ROWS) + scale_row) * K_BLOCKS

    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for k_block in range(K_BLOCKS):
        if K % BLOCK_K == 0:
            x = tl.load(x_ptrs)
            w = tl.load(weight_ptrs)
        else:
            depth_ok = (depth < K - k_block * BLOCK_K)[None, :]
            x = tl.load(x_ptrs, mask=depth_ok, other=0.0)
            w = tl.load(weight_ptrs, mask=depth_ok, other=0.0)
        x_scale = tl.load(x_scale_ptrs + k_block)
        if ONE_SCALE:
            scale = (x_scale * tl.load(weight_scale_ptrs + k_block))[:, None]
        else:
            scale = x_scale[:, None] * tl.load(weight_scale_ptrs + k_block)[None, :]
        total += tl.dot(x, tl.trans(w)) * scale
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K

    out_offsets = (rows.to(tl.int64) * (P * N))[:, None] + cols[None, :]
    tl.store(out_ptr + out_offsets, total.to(tl.bfloat16), mask=row_ok[:, None] & col_ok[None, :])


@triton.jit
def grouped_gemm_bf16_kernel(
    x_ptr,  # [M, K] bf16, row stride x_stride
    weight_ptr,  # [E, P, N, K] bf16 contiguous
    out_ptr,  # [R, P, N] bf16 contiguous
    expert_offsets_ptr,  # [E + 1] int32
    row_index_ptr,  # [R] int32 or None
    n_x_rows,
    n_rows,
    x_stride,
    P: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    expert = tl.program_id(2)
    offsets_ptr = expert_offsets_ptr + expert
    end = tl.load(offsets_ptr + 1)
    tile_start = tl.load(offsets_ptr) + tl.program_id(0) * BLOCK_M
    if tile_start >= end:
        return

    rows = tile_start + tl.arange(0, BLOCK_M)
    row_ok = rows < tl.minimum(end, n_rows)
    source = rows
    if row_index_ptr is not None:
        source = tl.load(row_index_ptr + rows, mask=row_ok, other=0)
    # Rows and columns past the end read the last ones again, and are not stored: cheaper than a mask in the loop.
    source = tl.minimum(tl.maximum(source, 0), n_x_rows - 1).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = cols < P * N
    safe_cols = tl.minimum(cols, P * N - 1)
    depth = tl.arange(0, BLOCK_K)
    matrix = expert.to(tl.int64) * (P * N * K)
    x_ptrs = x_ptr + (source * x_stride)[:, None] + depth[None, :]
    weight_ptrs = weight_ptr + matrix + (safe_cols * K)[:, None] + depth[None, :]

    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x = tl.load(x_ptrs)
            w = tl.load(weight_ptrs)
        else:
            depth_ok = (depth < K - start)[None, :]
            x = tl.load(x_ptrs, mask=depth_ok, other=0.0)
            w = tl.load(weight_ptrs, mask=depth_ok, other=0.0)
        total = tl.dot(x, tl.trans(w), acc=total)
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K

    out_offsets = (rows.to(tl.int64) * (P * N))[:, None] + cols[None, :]
    tl.store(out_ptr + out_offsets, total.to(tl.bfloat16), mask=row_ok[:, None] & col_ok[None, :])
