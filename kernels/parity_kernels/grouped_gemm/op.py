"""Multiply the rows of each expert by that expert's weight: block-FP8 and bf16."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape
from parity_kernels.backend import interpreted
from parity_kernels.grouped_gemm.kernel import grouped_gemm_bf16_kernel, grouped_gemm_fp8_kernel
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch
from parity_kernels.launch import Launch, ceil_div, next_power_of_2

# A launch is no Python call to a type checker.
_grouped_gemm_fp8: Any = grouped_gemm_fp8_kernel
_grouped_gemm_bf16: Any = grouped_gemm_bf16_kernel

FP8 = torch.float8_e4m3fn


def grouped_gemm_fp8(
    x_q: torch.Tensor,
    x_s: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    *,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    n_rows: int,
    out: torch.Tensor | None = None,
    launch: Launch | None = None,
) -> torch.Tensor:
    """out[r, p] = weight[e(r), p] @ x[row_index[r]], e(r) the expert that owns row r.

    x_q: [M, K] float8_e4m3fn with x_s [M, ceil(K/128)] fp32, one scale a row and 128 columns; columns dense, rows may
      be strided. weight: [E, P, N, K] float8_e4m3fn with weight_scale [E, P, ceil(N/128), ceil(K/128)] fp32, one scale
      a 128x128 block, edge blocks partial; both contiguous. P parts share x (gate and up: 2).
    expert_offsets: [E+1] int32. row_index: [R] int32, or None for row r itself. n_rows: R; may be 0, and so may the
      rows of any expert.
    Returns out [R, P, N] bf16. Each 128-block of K is an fp32 dot of the fp8 values, times x_s * weight_scale, added
      in fp32 in the order of K; one rounding to bf16. A tensor core keeps fewer bits inside a block, see README.
    Rows that the launch's grid does not reach are NOT written and keep what `out` held: the grid is the caller's to
    answer for (`Launch.truncated`).
    Raises ShapeError, DtypeError before anything is launched.
    """
    op = "grouped_gemm_fp8"
    out = _check(op, x_q, weight, expert_offsets, row_index, n_rows, out, FP8)
    n_experts, parts, columns, depth = weight.shape
    require_shape(f"{op}: x_s", x_s, (x_q.shape[0], ceil_div(depth, 128)))
    require_shape(f"{op}: weight_scale", weight_scale, (n_experts, parts, ceil_div(columns, 128), ceil_div(depth, 128)))
    for name, scale in (("x_s", x_s), ("weight_scale", weight_scale)):
        require_dtype(f"{op}: {name}", scale, torch.float32)
    require_dense(f"{op}: x_s", x_s, from_dim=1)
    require_dense(f"{op}: weight_scale", weight_scale)
    require_same_device(op, x_q=x_q, x_s=x_s, weight_scale=weight_scale)
    launch = launch or _default_launch(op, x_q, weight, row_index, n_rows)
    if n_rows == 0 or 0 in launch.grid:
        return out
    _grouped_gemm_fp8[launch.grid](
        x_q,
        x_s,
        weight,
        weight_scale,
        out,
        expert_offsets,
        row_index,
        x_q.shape[0],
        n_rows,
        x_q.stride(0),
        x_s.stride(0),
        P=parts,
        N=columns,
        K=depth,
        BLOCK_M=launch.block["m"],
        BLOCK_N=launch.block["n"],
        num_warps=4,
        num_stages=4,
    )
    return out


def grouped_gemm_bf16(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    n_rows: int,
    out: torch.Tensor | None = None,
    launch: Launch | None = None,
) -> torch.Tensor:
    """The same without scales: x [M, K] and weight [E, P, N, K] bf16, fp32 accumulation over K, one rounding."""
    op = "grouped_gemm_bf16"
    out = _check(op, x, weight, expert_offsets, row_index, n_rows, out, torch.bfloat16)
    _, parts, columns, depth = weight.shape
    launch = launch or _default_launch(op, x, weight, row_index, n_rows)
    if n_rows == 0 or 0 in launch.grid:
        return out
    _grouped_gemm_bf16[launch.grid](
        x,
        weight,
        out,
        expert_offsets,
        row_index,
        x.shape[0],
        n_rows,
        x.stride(0),
        P=parts,
        N=columns,
        K=depth,
        BLOCK_M=launch.block["m"],
        BLOCK_N=launch.block["n"],
        BLOCK_K=_bf16_depth(depth),
        num_warps=4,
        num_stages=4,
    )
    return out


def _bf16_depth(depth: int) -> int:
    """Half the fp8 depth when compiled: a stage of the pipeline then takes the same shared memory."""
    return min(512, max(16, next_power_of_2(max(depth, 1)))) if interpreted() else 64


def _default_launch(
    op: str, x: torch.Tensor, weight: torch.Tensor, row_index: torch.Tensor | None, n_rows: int
) -> Launch:
    """Without a launch of the caller's: gathered rows come from M tokens; rows of its own may all be one expert's."""
    n_tokens = min(x.shape[0], n_rows) if row_index is not None else n_rows
    return grouped_gemm_launch(
        op=op, n_tokens=n_tokens, top_k=1, n_experts=weight.shape[0], n_cols=weight.shape[2], n_parts=weight.shape[1]
    )


def _check(
    op: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    n_rows: int,
    out: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """What both recipes ask of their tensors; returns the output buffer."""
    require_shape(f"{op}: weight", weight, (None, None, None, None))
    n_experts, parts, columns, depth = weight.shape
    require_shape(f"{op}: x", x, (None if row_index is not None else n_rows, depth))
    require_dtype(f"{op}: x", x, dtype)
    require_dtype(f"{op}: weight", weight, dtype)
    require_dense(f"{op}: x", x, from_dim=1)
    require_dense(f"{op}: weight", weight)
    require_shape(f"{op}: expert_offsets", expert_offsets, (n_experts + 1,))
    require_dtype(f"{op}: expert_offsets", expert_offsets, torch.int32)
    require_dense(f"{op}: expert_offsets", expert_offsets)
    if row_index is not None:
        require_shape(f"{op}: row_index", row_index, (n_rows,))
        require_dtype(f"{op}: row_index", row_index, torch.int32)
        require_dense(f"{op}: row_index", row_index)
    if out is None:
        out = torch.empty((n_rows, parts, columns), dtype=torch.bfloat16, device=x.device)
    require_shape(f"{op}: out", out, (n_rows, parts, columns))
    require_dtype(f"{op}: out", out, torch.bfloat16)
    require_dense(f"{op}: out", out)
    require_same_device(op, x=x, weight=weight, expert_offsets=expert_offsets, row_index=row_index, out=out)
    return out
