# type: ignore - Triton's language is not Python to a type checker
"""How do new keys and values reach the cache? Device code: a row-blocked scatter, bit for bit."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: T token rows, G kv heads, K head dim, L positions a slot holds, C = G*K columns of a row.


@triton.jit
def kv_write_kernel(
    k_ptr,  # [T, C] row stride k_stride
    v_ptr,  # [T, C] row stride v_stride
    cache_k_ptr,  # [slots, L, C]
    cache_v_ptr,
    slots_ptr,  # [T]
    positions_ptr,  # [T]
    n_rows,
    n_slots,
    cache_length,
    k_stride,
    v_stride,
    cache_k_slot_stride,
    cache_k_position_stride,
    cache_v_slot_stride,
    cache_v_position_stride,
    C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    row_ok = rows < n_rows
    slot = tl.load(slots_ptr + rows, mask=row_ok, other=0).to(tl.int64)
    position = tl.load(positions_ptr + rows, mask=row_ok, other=0).to(tl.int64)
    # A row that has no place in the cache is dropped, never written into a neighbour's slot.
    row_ok = row_ok & (slot >= 0) & (slot < n_slots) & (position >= 0) & (position < cache_length)
    cols = tl.arange(0, BLOCK_C)
    ok = row_ok[:, None] & (cols < C)[None, :]
    source = rows.to(tl.int64)
    k = tl.load(k_ptr + (source * k_stride)[:, None] + cols[None, :], mask=ok)
    place = slot * cache_k_slot_stride + position * cache_k_position_stride
    tl.store(cache_k_ptr + place[:, None] + cols[None, :], k, mask=ok)
    v = tl.load(v_ptr + (source * v_stride)[:, None] + cols[None, :], mask=ok)
    place = slot * cache_v_slot_stride + position * cache_v_position_stride
    tl.store(cache_v_ptr + place[:, None] + cols[None, :], v, mask=ok)
