"""How does a GPU's matrix unit sum? The documented arithmetic of tensor cores, narrower than fp32 on purpose.

BF16: products are exact; each instruction adds 16 of them to the fp32 accumulator and rounds towards zero.
Source: Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores", doi 10.7717/peerj-cs.330, section 4.
E4M3: an instruction adds 32 products and the accumulator, all cut to 13 bits below the largest exponent among them; a
product's exponent is the sum of its factors', before it is normalized. The sum is cut to 13 bits below its own leading
one. Source: DeepSeek-V3 report, arXiv 2412.19437, section 3.3.2 ("around 14 bits"); where the cuts lie was found by
trying the possibilities on an H200, of which this one gives every bit of its results (tests/oracles/test_tensor_core.py
holds it to a device).

Alignment cuts each BF16 product too, below the accumulator's own last bit; that error is within the rounding towards
zero modelled here, and left out.

An engine on such a unit is as correct as one that sums in fp32: the recipe names the operands, not the adder.
Letters: T rows, K reduced, N outputs; leading axes are a batch.
"""

from __future__ import annotations

import torch

BF16_DEPTH, FP8_DEPTH = 16, 32
"""Values of K that one instruction reduces (PTX ISA, wgmma.mma_async: k16 for bf16, k32 for e4m3)."""

KEPT_BITS = 13
_LEAST_EXPONENT = -6
_NO_EXPONENT = -40  # two of them leave a unit that fp32 still holds
_DROPPED_BITS = 52 - 23  # of the fp64 mantissa: what is left is an fp32 number
_ELEMENTS = 1 << 18  # products held at a time: they stay in the second-level cache


def sum_bf16(x: torch.Tensor, weight: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
    """[..., T, K] by [..., N, K] to [..., T, N] fp32: 16 exact products at a time, the sum rounded towards zero.

    x, weight: fp32 numbers that are BF16 values. held: the accumulator to go on from; None: zeros.
    """
    total = x.new_zeros(*x.shape[:-1], weight.shape[-2]) if held is None else held
    for start in range(0, x.shape[-1], BF16_DEPTH):
        span = slice(start, start + BF16_DEPTH)
        wide = x[..., span].double() @ weight[..., span].double().transpose(-1, -2)
        total = _towards_zero(wide.add_(total))
    return total


def sum_fp8(x: torch.Tensor, weight: torch.Tensor, *, promote: int) -> torch.Tensor:
    """[T, K] by [N, K] to [T, N] fp32, x and weight on the E4M3 grid.

    promote: values of K after which the unit's sum is moved to an fp32 register and added there; a multiple of 32.
    """
    out = torch.empty(len(x), len(weight))
    step = max(1, _ELEMENTS // (max(len(weight), 1) * FP8_DEPTH))
    for first in range(0, len(x), step):
        out[first : first + step] = _sum_rows(x[first : first + step], weight, promote)
    return out


def _sum_rows(x: torch.Tensor, weight: torch.Tensor, promote: int) -> torch.Tensor:
    total = torch.zeros(len(x), len(weight))
    for start in range(0, x.shape[1], promote):
        held = torch.zeros_like(total)
        for first in range(start, min(start + promote, x.shape[1]), FP8_DEPTH):
            span = slice(first, min(first + FP8_DEPTH, start + promote))
            held = _instruction(x[:, span], weight[:, span], held)
        total = total + held
    return total


def _instruction(x: torch.Tensor, weight: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """held + x @ weight.T, addends cut to 13 bits below the largest exponent, the sum below its leading one."""
    largest = (_exponent(x)[:, None, :] + _exponent(weight)[None, :, :]).amax(-1)
    _, exponent = torch.frexp(held)
    largest = torch.maximum(largest, torch.where(held == 0, largest, exponent - 1))
    unit = torch.ldexp(torch.ones_like(held), largest - KEPT_BITS)
    products = (x[:, None, :] * weight[None, :, :]).mul_((1 / unit)[..., None])  # powers of two: scalings are exact
    total = products.trunc_().sum(-1) + (held / unit).trunc()
    _, width = torch.frexp(total)
    cut = torch.ldexp(torch.ones_like(total), (width - 1 - KEPT_BITS).clamp(min=0))
    return (total / cut).trunc() * cut * unit


def _exponent(values: torch.Tensor) -> torch.Tensor:
    """Exponent of numbers on the E4M3 grid, -6 for its subnormals; far below all others for zero, which has no say."""
    _, exponent = torch.frexp(values)
    return torch.where(values == 0, _NO_EXPONENT, (exponent - 1).clamp(min=_LEAST_EXPONENT))


def _towards_zero(wide: torch.Tensor) -> torch.Tensor:
    """fp64 to fp32, rounded towards zero; `wide` is written to. Below 2^-126, where fp32 has fewer bits, to nearest."""
    bits = wide.view(torch.int64)
    bits.bitwise_and_(-(1 << _DROPPED_BITS))
    return wide.float()
