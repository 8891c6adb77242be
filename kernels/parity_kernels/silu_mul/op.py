"""silu(gate) * up between the two grouped GEMMs: quantized to FP8 in the same kernel, or left in bf16."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape
from parity_kernels.launch import Launch, LaunchFunction, ceil_div, sized
from parity_kernels.silu_mul.kernel import silu_mul_kernel, silu_mul_quant_kernel
from parity_kernels.silu_mul.launch import silu_mul_launch, silu_mul_quant_launch

# A launch is no Python call to a type checker.
_silu_mul_quant: Any = silu_mul_quant_kernel
_silu_mul: Any = silu_mul_kernel

FP8 = torch.float8_e4m3fn


def silu_mul_quant(
    gate_up: torch.Tensor,
    *,
    act_out: torch.Tensor | None = None,
    out_q: torch.Tensor | None = None,
    out_s: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """act = bf16(silu(gate) * up); a row's 128 columns share s = max(amax, 1e-10) / 448; q = e4m3(act / s).

    gate_up: [R, 2, F] bf16, gate first; columns dense, rows and parts may be strided. R may be 0.
    act_out: [R, F] bf16 contiguous or None; a probe, its store is not compiled when None.
    Returns (q [R, F] float8_e4m3fn, s [R, ceil(F/128)] fp32); the last group may be partial. silu, the product and the
    scale are fp32, rounded to nearest even; act is rounded to bf16 before it is quantized; E4M3 saturates at 448.
    A NaN stays NaN in q and has no part in its group's scale.
    Raises ShapeError, DtypeError before anything is launched.
    """
    n_rows, width = _check("silu_mul_quant", gate_up)
    out_q = _buffer("silu_mul_quant: out_q", out_q, (n_rows, width), FP8, gate_up)
    out_s = _buffer("silu_mul_quant: out_s", out_s, (n_rows, ceil_div(width, 128)), torch.float32, gate_up)
    if act_out is not None:
        _buffer("silu_mul_quant: act_out", act_out, (n_rows, width), torch.bfloat16, gate_up)
    launch = sized(launch, silu_mul_quant_launch, n_rows=n_rows, width=width)
    if n_rows and width:
        _silu_mul_quant[launch.grid](
            gate_up,
            out_q,
            out_s,
            act_out,
            n_rows,
            gate_up.stride(0),
            gate_up.stride(1),
            F=width,
            BLOCK_R=launch.block["r"],
            num_warps=4,
        )
    return out_q, out_s


def silu_mul(
    gate_up: torch.Tensor, *, out: torch.Tensor | None = None, launch: Launch | LaunchFunction | None = None
) -> torch.Tensor:
    """act [R, F] = bf16(silu(gate) * up), fp32 inside, one rounding; everything else as in silu_mul_quant."""
    n_rows, width = _check("silu_mul", gate_up)
    out = _buffer("silu_mul: out", out, (n_rows, width), torch.bfloat16, gate_up)
    launch = sized(launch, silu_mul_launch, n_rows=n_rows, width=width)
    if n_rows and width:
        _silu_mul[launch.grid](
            gate_up,
            out,
            n_rows,
            gate_up.stride(0),
            gate_up.stride(1),
            F=width,
            BLOCK_R=launch.block["r"],
            BLOCK_F=launch.block["f"],
            num_warps=4,
        )
    return out


def _check(op: str, gate_up: torch.Tensor) -> tuple[int, int]:
    require_shape(f"{op}: gate_up", gate_up, (None, 2, None))
    require_dtype(f"{op}: gate_up", gate_up, torch.bfloat16)
    require_dense(f"{op}: gate_up", gate_up, from_dim=2)
    return gate_up.shape[0], gate_up.shape[2]


def _buffer(
    place: str, out: torch.Tensor | None, shape: tuple[int, int], dtype: torch.dtype, like: torch.Tensor
) -> torch.Tensor:
    if out is None:
        return torch.empty(shape, dtype=dtype, device=like.device)
    require_shape(place, out, shape)
    require_dtype(place, out, dtype)
    require_dense(place, out)
    require_same_device(place, gate_up=like, out=out)
    return out
