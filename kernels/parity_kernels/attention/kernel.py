# type: ignore - Triton's language is not Python to a type checker
"""How does a query attend to the cache, tile by tile? Device code of prefill and decode, one softmax step for both.

Nothing past the last written position is read: a tile that reaches further reads the last written key and value again,
with probability 0. A poisoned tail of the cache (NaN) thus never reaches P @ V, where 0 * NaN would be NaN.
"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: T packed query rows, B requests, H query heads, G kv heads, K head dim, L positions a slot holds.


@triton.jit
def softmax_step(q, k, v, visible, weighted, row_max, row_sum, scale):
    """One tile of keys of the online softmax. q [M, K], k and v [N, K]; weighted [M, K], row_max, row_sum [M] fp32."""
    scores = tl.where(visible, tl.dot(q, tl.trans(k)) * scale, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, axis=1))
    shrink = tl.exp(row_max - new_max)
    p = tl.exp(scores - new_max[:, None])
    # The row sum takes P before its rounding to bf16, the product after it: the recipe's rounding points.
    row_sum = row_sum * shrink + tl.sum(p, axis=1)
    weighted = weighted * shrink[:, None] + tl.dot(p.to(v.dtype), v)
    return weighted, new_max, row_sum


@triton.jit
def attention_prefill_kernel(
    q_ptr,  # [T, H, K]
    cache_k_ptr,  # [slots, L, G, K]
    cache_v_ptr,
    out_ptr,  # [T, H, K] contiguous
    row_start_ptr,  # [B + 1] int32
    slots_ptr,  # [B] int32
    first_position_ptr,  # [B] int32
    scale,
    q_row_stride,
    q_head_stride,
    k_slot_stride,
    k_position_stride,
    k_head_stride,
    v_slot_stride,
    v_position_stride,
    v_head_stride,
    H: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    request = tl.program_id(2)
    first_row = tl.load(row_start_ptr + request)
    n_rows = tl.load(row_start_ptr + request + 1) - first_row
    tile_start = tl.program_id(0) * BLOCK_M
    if tile_start >= n_rows:
        return
    head = tl.program_id(1)
    kv_head = (head // (H // G)).to(tl.int64)
    slot = tl.load(slots_ptr + request).to(tl.int64)
    first_position = tl.load(first_position_ptr + request)

    local = tile_start + tl.arange(0, BLOCK_M)
    row_ok = local < n_rows
    rows = (first_row + tl.minimum(local, n_rows - 1)).to(tl.int64)
    dims = tl.arange(0, K)
    q_offsets = (rows * q_row_stride + head.to(tl.int64) * q_head_stride)[:, None] + dims[None, :]
    q = tl.load(q_ptr + q_offsets)

    own_position = first_position + local
    # Keys exist up to the request's last row; the tile's own last row sees no further than itself.
    context = first_position + tl.minimum(n_rows, tile_start + BLOCK_M)
    keys = tl.arange(0, BLOCK_N)
    k_base = cache_k_ptr + slot * k_slot_stride + kv_head * k_head_stride
    v_base = cache_v_ptr + slot * v_slot_stride + kv_head * v_head_stride

    weighted = tl.zeros([BLOCK_M, K], dtype=tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    for start in range(0, context, BLOCK_N):
        position = start + keys
        wide = tl.minimum(position, context - 1).to(tl.int64)
        k = tl.load(k_base + (wide * k_position_stride)[:, None] + dims[None, :])
        v = tl.load(v_base + (wide * v_position_stride)[:, None] + dims[None, :])
        visible = position[None, :] <= own_position[:, None]
        weighted, row_max, row_sum = softmax_step(q, k, v, visible, weighted, row_max, row_sum, scale)

    # Position 0 is visible to every row, so row_sum >= exp(0) of the maximal key: never a division by zero.
    out = weighted / row_sum[:, None]
    out_offsets = (rows * (H * K) + head * K)[:, None] + dims[None, :]
    tl.store(out_ptr + out_offsets, out.to(out_ptr.dtype.element_ty), mask=row_ok[:, None])


@triton.jit
def attention_decode_kernel(
    q_ptr,  # [B, H, K]
    cache_k_ptr,  # [slots, L, G, K]
    cache_v_ptr,
    out_ptr,  # [B, H, K] contiguous
    slots_ptr,  # [B] int32
    positions_ptr,  # [B] int32 or int64
    scale,
    q_row_stride,
    q_head_stride,
    k_slot_stride,
    k_position_stride,
    k_head_stride,
    v_slot_stride,
    v_position_stride,
    v_head_stride,
    H: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    request = tl.program_id(0)
    kv_head = tl.program_id(1)
    slot = tl.load(slots_ptr + request).to(tl.int64)
    context = tl.load(positions_ptr + request).to(tl.int32) + 1

    # The query heads that share this kv head are the rows of one tile: its keys are read once.
    member = tl.arange(0, BLOCK_H)
    head_ok = member < H // G
    heads = kv_head * (H // G) + tl.minimum(member, H // G - 1)
    dims = tl.arange(0, K)
    row = request.to(tl.int64)
    q_offsets = row * q_row_stride + (heads * q_head_stride)[:, None] + dims[None, :]
    q = tl.load(q_ptr + q_offsets)

    keys = tl.arange(0, BLOCK_N)
    k_base = cache_k_ptr + slot * k_slot_stride + kv_head.to(tl.int64) * k_head_stride
    v_base = cache_v_ptr + slot * v_slot_stride + kv_head.to(tl.int64) * v_head_stride

    weighted = tl.zeros([BLOCK_H, K], dtype=tl.float32)
    row_max = tl.full([BLOCK_H], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_H], dtype=tl.float32)
    for start in range(0, context, BLOCK_N):
        position = start + keys
        wide = tl.minimum(position, context - 1).to(tl.int64)
        k = tl.load(k_base + (wide * k_position_stride)[:, None] + dims[None, :])
        v = tl.load(v_base + (wide * v_position_stride)[:, None] + dims[None, :])
        weighted, row_max, row_sum = softmax_step(
            q, k, v, (position < context)[None, :], weighted, row_max, row_sum, scale
        )

    out = weighted / row_sum[:, None]
    out_offsets = row * (H * K) + (heads * K)[:, None] + dims[None, :]
    tl.store(out_ptr + out_offsets, out.to(out_ptr.dtype.element_ty), mask=head_ok[:, None])
