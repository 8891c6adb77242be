"""Negative controls: arithmetic that another correct engine uses. It moves bits and is no fault."""

from __future__ import annotations

from typing import Any

import torch

from parity.faults import Fault
from parity_kernels.quantize_rows.op import quantize_rows

POLYNOMIAL = (1.0, 0.695146143436431884765625, 0.227564394474029541015625, 0.077119089663028717041015625)
"""2^f on [0, 1) to a relative 8.8e-5, a fortieth of a bf16 rounding. Source: FlashAttention-4's software exponential,
the degree-3 minimax polynomial."""


def eps_outside_the_root(op: Any) -> Any:
    """x / (sqrt(mean(x^2)) + eps) instead of x / sqrt(mean(x^2) + eps)."""

    def add_rmsnorm(x: Any, residual: Any, weight: torch.Tensor, *, eps: float, **rest: Any) -> Any:
        normed, summed = op(x, residual, weight, eps=eps, **rest)
        wide = summed.float()
        root = wide.square().mean(-1, keepdim=True).sqrt() + eps
        return normed.copy_(wide / root * weight.float()), summed

    return add_rmsnorm


def rounded_before_the_gain(op: Any) -> Any:
    """Two roundings to bf16, as HF's RMSNorm has them: of the normed row, then of its product with the gain."""

    def add_rmsnorm(x: Any, residual: Any, weight: torch.Tensor, **rest: Any) -> Any:
        normed, summed = op(x, residual, torch.ones_like(weight), **rest)
        return normed.mul_(weight), summed

    return add_rmsnorm


def fast_exp(x: torch.Tensor) -> torch.Tensor:
    """exp of fp32 by splitting off the integer power of two and a cubic polynomial for the rest."""
    power = (x * 1.4426950408889634).clamp(-126, 126)
    whole = power.floor()
    f = power - whole
    a, b, c, d = POLYNOMIAL
    return torch.ldexp(a + f * (b + f * (c + f * d)), whole.int())


def fast_act(gate_up: torch.Tensor) -> torch.Tensor:
    """bf16(silu(gate) * up) with the fast exponential; [R, 2, F] to [R, F]."""
    gate, up = gate_up.float().unbind(1)
    return (gate / (1 + fast_exp(-gate)) * up).to(gate_up.dtype)


def fast_silu(op: Any) -> Any:
    return lambda gate_up, *, out, **rest: out.copy_(fast_act(gate_up))


def fast_silu_quant(op: Any) -> Any:
    def silu_mul_quant(gate_up: Any, *, act_out: Any = None, out_q: Any = None, out_s: Any = None, **rest: Any) -> Any:
        act = fast_act(gate_up)
        if act_out is not None:
            act_out.copy_(act)
        return quantize_rows(act, out_q=out_q, out_s=out_s)

    return silu_mul_quant


def backwards(tensor: torch.Tensor, columns: int) -> torch.Tensor:
    """[T, K] with K filled up with zeros to `columns` and then reversed."""
    bits = tensor.view(torch.uint8 if tensor.element_size() == 1 else torch.int16)  # torch moves float8 only as bits
    return torch.nn.functional.pad(bits, (0, columns - bits.shape[1])).flip(-1).contiguous().view(tensor.dtype)


def summed_backwards_fp8(op: Any) -> Any:
    """The last block of K first, and each block from its end; scales go with their blocks."""

    def linear(q: Any, s: torch.Tensor, weight: Any, scale: torch.Tensor, **rest: Any) -> Any:
        columns = 128 * s.shape[1]
        s, scale = s.flip(1).contiguous(), scale.flip(1).contiguous()
        return op(backwards(q, columns), s, backwards(weight, columns), scale, **rest)

    return linear


def summed_backwards_bf16(op: Any) -> Any:
    return lambda x, weight, **rest: op(backwards(x, x.shape[1]), backwards(weight, weight.shape[1]), **rest)


def control(name: str, summary: str, wraps: dict[str, Any]) -> Fault:
    return Fault(
        name=name,
        family="qwen3_moe",
        summary=summary,
        truth=None,
        cause=None,
        control=True,
        op=tuple(wraps),
        wrap=wraps,
    )


FAULTS = [
    control("rms_eps_variant", "RMSNorm adds eps outside the root.", {"add_rmsnorm": eps_outside_the_root}),
    control(
        "bf16_rounding_order",
        "RMSNorm rounds before it applies its gain, and once more after.",
        {"add_rmsnorm": rounded_before_the_gain},
    ),
    control(
        "fast_exp",
        "SiLU's exponential is a cubic polynomial.",
        {"silu_mul": fast_silu, "silu_mul_quant": fast_silu_quant},
    ),
    control(
        "reduction_order",
        "The projections sum in the reverse order of K.",
        {"linear_fp8": summed_backwards_fp8, "linear_bf16": summed_backwards_bf16},
    ),
    Fault(
        name="residual_growth",
        family="qwen3_moe",
        summary="Nothing is wrong; somebody blames the residual stream's growth for degenerate text.",
        truth=None,
        cause=None,
        control=True,
        claim="the residual stream grows with depth and compresses the logits",
    ),
]
