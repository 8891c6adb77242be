"""Unseen faults of activation quantization: the neighbour's scale, rounding to zero, half the range, five exponents."""

from __future__ import annotations

from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site

FP8 = {"recipe": "fp8_block"}
GROUP = 128


def wide(scale: torch.Tensor, columns: int) -> torch.Tensor:
    """[T, groups] scales as [T, columns]."""
    return scale.repeat_interleave(GROUP, dim=1)[:, :columns]


def neighbours_scale(op: Any) -> Any:
    """Layer 3, before the output projection: row t is stored with the scale of row t - 1."""

    def quantize(x: Any, **rest: Any) -> Any:
        q, s = op(x, **rest)
        if (where().role, where().layer) == ("attn.out", 3):
            s.copy_(s.roll(1, 0))
        return q, s

    return quantize


def toward_zero(op: Any) -> Any:
    """The cast to E4M3 drops bits instead of rounding, for the input of q, k and v."""

    def quantize(x: torch.Tensor, **rest: Any) -> Any:
        q, s = op(x, **rest)
        if where().role == "attn.q":
            exact = x.float() / wide(s, x.shape[1])
            # One code lower is the next value toward zero, whatever the sign.
            q.view(torch.uint8).sub_((q.float().abs() > exact.abs()).to(torch.uint8))
        return q, s

    return quantize


def half_the_range(op: Any) -> Any:
    """Layer 0, before the experts: the scale maps half of the largest value to 448, and what is above is clipped."""

    def quantize(x: torch.Tensor, **rest: Any) -> Any:
        q, s = op(x, **rest)
        if (where().role, where().layer) == ("moe.gate_up", 0):
            s.mul_(0.5)
            q.copy_((x.float() / wide(s, x.shape[1])).clamp(-448.0, 448.0).to(q.dtype))
        return q, s

    return quantize


def two_bits(op: Any) -> Any:
    """Layer 1, before the output projection: the values pass through E5M2."""

    def quantize(x: Any, **rest: Any) -> Any:
        q, s = op(x, **rest)
        if (where().role, where().layer) == ("attn.out", 1):
            q.copy_(q.float().to(torch.float8_e5m2).float().to(q.dtype))
        return q, s

    return quantize


FAULTS = [
    Fault(
        name="quant_scale_of_neighbour",
        family="qwen3_moe",
        summary="The input of layer 3's output projection is stored with the row scales of the token before.",
        truth=Site((3,), "attn.out"),
        cause="a factor of its own for each row",
        needs=FP8,
        op="quantize_rows",
        wrap=neighbours_scale,
    ),
    Fault(
        name="quant_rounds_to_zero",
        family="qwen3_moe",
        summary="The input of q, k and v is truncated to E4M3: 3 % too small on average, in every layer.",
        truth=Site((), "attn.q"),
        also=(Site((), "attn.k"), Site((), "attn.v")),
        cause="constant ratio",
        needs=FP8,
        op="quantize_rows",
        wrap=toward_zero,
    ),
    Fault(
        name="quant_half_range",
        family="qwen3_moe",
        summary="The experts' input in layer 0 is clipped at half of each group's largest value.",
        truth=Site((0,), "moe.gate"),
        also=(Site((0,), "moe.up"),),
        cause="saturated at one extreme value",
        needs=FP8,
        op="quantize_rows",
        wrap=half_the_range,
    ),
    Fault(
        name="quant_e5m2",
        family="qwen3_moe",
        summary="The input of layer 1's output projection is rounded to E5M2 on its way to E4M3.",
        truth=Site((1,), "attn.out"),
        cause="values on the grid of a narrower dtype",
        needs=FP8,
        op="quantize_rows",
        wrap=two_bits,
    ),
]
