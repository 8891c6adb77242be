# type: ignore - Triton's language is not Python to a type checker
"""What happens between the two grouped GEMMs? Device code: silu(gate) * up, and its FP8 quantization in one kernel."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: R expert rows, F expert width; gate_up [R, 2, F]: gate is part 0, up part 1.


@triton.jit
def silu_mul_tile(gate_up_ptr, rows, cols, ok, row_stride, part_stride):
    """silu(gate) * up of one tile in fp32, rounded once to bf16."""
    base = gate_up_ptr + (rows.to(tl.int64) * row_stride)[:, None] + cols[None, :]
    gate = tl.load(base, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(base + part_stride, mask=ok, other=0.0).to(tl.float32)
    return (gate / (1.0 + tl.exp(-gate)) * up).to(tl.bfloat16)


@triton.jit
def silu_mul_quant_kernel(
    gate_up_ptr,  # [R, 2, F] bf16
    q_ptr,  # [R, F] e4m3
    scale_ptr,  # [R, ceil(F/128)] fp32
    act_ptr,  # [R, F] bf16 or None
    n_rows,
    row_stride,
    part_stride,
    F: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One program: BLOCK_R rows of one group of 128 columns."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    group = tl.program_id(1)
    cols = group * 128 + tl.arange(0, 128)
    row_ok = rows < n_rows
    ok = row_ok[:, None] & (cols < F)[None, :]
    act = silu_mul_tile(gate_up_ptr, rows, cols, ok, row_stride, part_stride)
    offsets = (rows.to(tl.int64) * F)[:, None] + cols[None, :]
    if act_ptr is not None:  # probe
        tl.store(act_ptr + offsets, act, mask=ok)  # probe
    # The recipe quantizes the rounded value. div_rn: Triton's plain fp32 division is 2 ulp off and moves E4M3 ties.
    value = act.to(tl.float32)
    amax = tl.max(tl.abs(value), axis=1)
    scale = tl.div_rn(tl.maximum(amax, 1e-10), 448.0)
    q = tl.div_rn(value, tl.broadcast_to(scale[:, None], value.shape))
    q = tl.minimum(tl.maximum(q, -448.0, propagate_nan=tl.PropagateNan.ALL), 448.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(q_ptr + offsets, q.to(tl.float8e4nv), mask=ok)
    scale_offsets = rows.to(tl.int64) * ((F + 127) // 128) + group
    tl.store(scale_ptr + scale_offsets, scale, mask=row_ok)


@triton.jit
def silu_mul_kernel(
    gate_up_ptr,  # [R, 2, F] bf16
    act_ptr,  # [R, F] bf16
    n_rows,
    row_stride,
    part_stride,
    F: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    cols = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    ok = (rows < n_rows)[:, None] & (cols < F)[None, :]
    act = silu_mul_tile(gate_up_ptr, rows, cols, ok, row_stride, part_stride)
    tl.store(act_ptr + (rows.to(tl.int64) * F)[:, None] + cols[None, :], act, mask=ok)
