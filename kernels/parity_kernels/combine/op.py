"""Bring a token's expert rows back together, each with its routing weight."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape, require_within
from parity_kernels.combine.kernel import combine_kernel
from parity_kernels.combine.launch import combine_launch
from parity_kernels.launch import Launch, LaunchFunction, sized

# A launch is no Python call to a type checker.
_combine: Any = combine_kernel


def combine(
    down: torch.Tensor,
    slot_row: torch.Tensor,
    weights: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> torch.Tensor:
    """out[t] = sum over slots s = 0 .. S-1, in that order, of weights[t, s] * down[slot_row[t, s]].

    down: [R, D] bf16, columns dense, rows may be strided. slot_row: [T, S] int32, weights: [T, S] fp32, contiguous.
    T may be 0. Returns [T, D] bf16: products and sum in fp32, one rounding. A weight of 0 does not hide a row's NaN.
    A slot_row outside 0 .. R-1 raises ValueRangeError on the CPU and gives a NaN row on a CUDA device.
    Raises ShapeError, DtypeError before anything is launched.
    """
    require_shape("combine: down", down, (None, None))
    require_shape("combine: slot_row", slot_row, (None, None))
    n_rows, hidden = down.shape
    n_tokens, top_k = slot_row.shape
    require_shape("combine: weights", weights, (n_tokens, top_k))
    require_dtype("combine: down", down, torch.bfloat16)
    require_dtype("combine: slot_row", slot_row, torch.int32)
    require_dtype("combine: weights", weights, torch.float32)
    require_dense("combine: down", down, from_dim=1)
    require_dense("combine: slot_row", slot_row)
    require_dense("combine: weights", weights)
    require_within("combine: slot_row", slot_row, 0, n_rows - 1)
    if out is None:
        out = torch.empty((n_tokens, hidden), dtype=torch.bfloat16, device=down.device)
    require_shape("combine: out", out, (n_tokens, hidden))
    require_dtype("combine: out", out, torch.bfloat16)
    require_dense("combine: out", out)
    require_same_device("combine", down=down, slot_row=slot_row, weights=weights, out=out)
    if out.numel() == 0:
        return out
    launch = sized(launch, combine_launch, n_tokens=n_tokens, hidden=hidden)
    _combine[launch.grid](
        down,
        slot_row,
        weights,
        out,
        n_tokens,
        n_rows,
        down.stride(0),
        D=hidden,
        S=top_k,
        BLOCK_T=launch.block["t"],
        BLOCK_D=launch.block["d"],
        num_warps=4,
    )
    return out
