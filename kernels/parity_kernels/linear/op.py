"""What is x W^T, in block-FP8 and in bf16?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape
from parity_kernels.launch import Launch, LaunchFunction, ceil_div, sized
from parity_kernels.linear.kernel import linear_bf16_kernel, linear_fp8_kernel
from parity_kernels.linear.launch import GROUP, IMPRECISE_K, compile_options, linear_launch

# Any: pyright reads a kernel's own signature, not the launcher's.
_linear_fp8: Any = linear_fp8_kernel
_linear_bf16: Any = linear_bf16_kernel


def linear_fp8(
    q: torch.Tensor,
    s: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> torch.Tensor:
    """y = sum over blocks b of 128 columns of K: s[:, b] * weight_scale[n // 128, b] * (q_b W_b^T), rounded to bf16.

    q: [T, K] float8_e4m3fn, s: [T, ceil(K/128)] fp32 (of quantize_rows); weight: [N, K] float8_e4m3fn,
    weight_scale: [ceil(N/128), ceil(K/128)] fp32; all contiguous, edge blocks of N and K may be partial; T may be 0.
    out: [T, N] bf16, rows may be strided, or None (allocated). Returns it.
    A block's dot accumulates in fp32; blocks are added in fp32 in order of K; one rounding.
    Raises ShapeError, DtypeError before anything is launched.
    Source: DeepSeek-V3 report, arXiv 2412.19437, section 3.3.
    """
    require_shape("linear_fp8: q", q, (None, None))
    n_rows, depth = q.shape
    groups = ceil_div(depth, GROUP)
    require_shape("linear_fp8: weight", weight, (None, depth))
    n_cols = weight.shape[0]
    require_shape("linear_fp8: s", s, (n_rows, groups))
    require_shape("linear_fp8: weight_scale", weight_scale, (ceil_div(n_cols, GROUP), groups))
    for name, tensor, dtype in (
        ("q", q, torch.float8_e4m3fn),
        ("s", s, torch.float32),
        ("weight", weight, torch.float8_e4m3fn),
        ("weight_scale", weight_scale, torch.float32),
    ):
        require_dtype(f"linear_fp8: {name}", tensor, dtype)
        require_dense(f"linear_fp8: {name}", tensor)
    out = _checked_out("linear_fp8", out, n_rows, n_cols, torch.bfloat16, q.device)
    require_same_device("linear_fp8", q=q, s=s, weight=weight, weight_scale=weight_scale, out=out)
    launch = sized(launch, linear_launch, op="linear_fp8", n_rows=n_rows, n_cols=n_cols, depth=depth)
    if out.numel() and all(launch.grid):
        _linear_fp8[launch.grid](
            q,
            s,
            weight,
            weight_scale,
            out,
            n_rows,
            n_cols,
            depth,
            groups,
            out.stride(0),
            IMPRECISE_K=IMPRECISE_K,
            BLOCK_M=launch.block["m"],
            BLOCK_N=launch.block["n"],
            **compile_options(launch.block["m"]),
        )
    return out


def linear_bf16(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    out: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> torch.Tensor:
    """y = x W^T, accumulated in fp32 in steps of the tile's K, rounded once to `out_dtype`.

    x: [T, K] bf16, weight: [N, K] bf16, rows of both may be strided, K dense; T may be 0.
    out_dtype: torch.bfloat16, or torch.float32 (nothing is rounded: logits). out: [T, N] of that dtype, rows may be
    strided, or None (allocated). Returns it. Raises ShapeError, DtypeError before anything is launched.
    """
    require_shape("linear_bf16: x", x, (None, None))
    n_rows, depth = x.shape
    require_shape("linear_bf16: weight", weight, (None, depth))
    n_cols = weight.shape[0]
    for name, tensor in (("x", x), ("weight", weight)):
        require_dtype(f"linear_bf16: {name}", tensor, torch.bfloat16)
        require_dense(f"linear_bf16: {name}", tensor, from_dim=1)
    out = _checked_out("linear_bf16", out, n_rows, n_cols, out_dtype, x.device)
    require_same_device("linear_bf16", x=x, weight=weight, out=out)
    launch = sized(launch, linear_launch, op="linear_bf16", n_rows=n_rows, n_cols=n_cols, depth=depth)
    if out.numel() and all(launch.grid):
        _linear_bf16[launch.grid](
            x,
            weight,
            out,
            n_rows,
            n_cols,
            depth,
            x.stride(0),
            weight.stride(0),
            out.stride(0),
            BLOCK_M=launch.block["m"],
            BLOCK_N=launch.block["n"],
            BLOCK_K=launch.block["k"],
            **compile_options(launch.block["m"]),
        )
    return out


def _checked_out(
    op: str, out: torch.Tensor | None, n_rows: int, n_cols: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    if out is None:
        out = torch.empty((n_rows, n_cols), dtype=dtype, device=device)
    require_shape(f"{op}: out", out, (n_rows, n_cols))
    require_dtype(f"{op}: out", out, dtype)
    require_dtype(f"{op}: out", out, torch.bfloat16, torch.float32)
    require_dense(f"{op}: out", out, from_dim=1)
    return out
