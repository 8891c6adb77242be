"""What does an FP8 linear see of its input: E4M3 values, and which scales?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape
from parity_kernels.launch import Launch, LaunchFunction, ceil_div, sized
from parity_kernels.quantize_rows.kernel import quantize_rows_kernel
from parity_kernels.quantize_rows.launch import GROUP, quantize_rows_launch

# Any: pyright reads a kernel's own signature, not the launcher's.
_quantize_rows: Any = quantize_rows_kernel


def quantize_rows(
    x: torch.Tensor,
    *,
    out_q: torch.Tensor | None = None,
    out_s: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """s = max(amax, 1e-10) / 448 for every row and 128 columns; q = e4m3(x / s), nearest even, saturating.

    x: [T, K] bf16, rows may be strided, K dense, the last group may be partial; T may be 0.
    out_q: [T, K] float8_e4m3fn, out_s: [T, ceil(K/128)] fp32, contiguous, or None (allocated). Returns (q, s).
    amax and both divisions are fp32, correctly rounded on every backend: bits do not depend on backend or tile.
    A NaN stays NaN; it is left out of the amax of its group.
    Raises ShapeError, DtypeError before anything is launched.
    Source: DeepSeek-V3 report, arXiv 2412.19437, section 3.3.2 (1x128 activation tiles).
    """
    require_shape("quantize_rows: x", x, (None, None))
    require_dtype("quantize_rows: x", x, torch.bfloat16)
    require_dense("quantize_rows: x", x, from_dim=1)
    n_rows, n_cols = x.shape
    groups = ceil_div(n_cols, GROUP)
    out_q = torch.empty((n_rows, n_cols), dtype=torch.float8_e4m3fn, device=x.device) if out_q is None else out_q
    out_s = torch.empty((n_rows, groups), dtype=torch.float32, device=x.device) if out_s is None else out_s
    require_shape("quantize_rows: out_q", out_q, (n_rows, n_cols))
    require_shape("quantize_rows: out_s", out_s, (n_rows, groups))
    require_dtype("quantize_rows: out_q", out_q, torch.float8_e4m3fn)
    require_dtype("quantize_rows: out_s", out_s, torch.float32)
    require_dense("quantize_rows: out_q", out_q)
    require_dense("quantize_rows: out_s", out_s)
    require_same_device("quantize_rows", x=x, out_q=out_q, out_s=out_s)
    launch = sized(launch, quantize_rows_launch, n_rows=n_rows, n_cols=n_cols)
    if out_q.numel() and all(launch.grid):
        _quantize_rows[launch.grid](
            x,
            out_q,
            out_s,
            n_rows,
            x.stride(0),
            n_cols,
            groups,
            BLOCK_M=launch.block["m"],
            BLOCK_G=launch.block["g"],
            num_warps=4,
        )
    return out_q, out_s
