"""What goes into a block: the residual stream after an addition, and its RMSNorm?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.add_rmsnorm.arguments import checked_buffers
from parity_kernels.add_rmsnorm.kernel import add_rmsnorm_kernel
from parity_kernels.add_rmsnorm.launch import add_rmsnorm_launch, warps_for
from parity_kernels.launch import Launch, LaunchFunction, sized

# Any: pyright reads a kernel's own signature, not the launcher's.
_add_rmsnorm: Any = add_rmsnorm_kernel


def add_rmsnorm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    out: torch.Tensor | None = None,
    out_sum: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """summed = bf16(x + residual); normed = bf16(summed * rsqrt(mean(summed^2) + eps) * weight).

    x, residual: [T, D] bf16, rows may be strided, D dense, D <= 16384; T may be 0. residual None: summed is x itself.
    weight: [D] bf16, applied in fp32. eps: dimensionless, > 0.
    out, out_sum: [T, D] bf16 or None (allocated); out_sum may be x or residual (a row is read before it is written).
    Returns (normed, summed). Everything between the bf16 inputs and the two roundings is fp32; squares are summed over
    the whole row by a tree in fp32. Raises ShapeError, DtypeError, ValueRangeError before anything is launched.
    Source: Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4; one rounding, unlike HF's, which rounds before `weight` too.
    """
    out, summed = checked_buffers("add_rmsnorm", x, residual, weight, eps, out, out_sum)
    n_rows, n_cols = x.shape
    launch = sized(launch, add_rmsnorm_launch, n_rows=n_rows, n_cols=n_cols)
    if out.numel() and all(launch.grid):
        _add_rmsnorm[launch.grid](
            x,
            residual,
            weight,
            out,
            None if residual is None else summed,
            n_rows,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            out.stride(0),
            0 if residual is None else summed.stride(0),
            eps,
            D=n_cols,
            BLOCK_M=launch.block["m"],
            BLOCK_D=launch.block["d"],
            num_warps=warps_for(launch.block["d"]),
        )
    return out, summed
