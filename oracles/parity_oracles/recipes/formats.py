"""How does a number become BF16 or E4M3? Rounding and the block quantization of activations and weights.

Source of E4M3: Micikevicius et al. 2022, arXiv 2209.05433 (bias 7, three mantissa bits, largest 448, no infinity).
Source of the scales: DeepSeek-V3 report, arXiv 2412.19437, section 3.3.2 (1x128 groups of activations, 128x128 blocks
of weights), with the smallest admissible amax of 1e-10 that engines use so that an all-zero group has a scale.
"""

from __future__ import annotations

import torch

from parity.errors import ShapeError
from parity_oracles.recipes.arithmetic import BLOCK

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
AMAX_MIN = 1e-10
MANTISSA_BITS = 3
SMALLEST_EXPONENT = -6


def round_e4m3(x: torch.Tensor) -> torch.Tensor:
    """The E4M3 number nearest to each value, ties to the even mantissa, saturating at +-448.

    x: any shape, fp32. Returns the same shape as fp32 numbers that E4M3 can represent. NaN stays NaN.
    Exact: the step between neighbours is a power of two, so the scaling to and from integers loses nothing.
    """
    x = x.clamp(-E4M3_MAX, E4M3_MAX)
    exponent = torch.frexp(x).exponent - 1
    step_exponent = exponent.clamp(min=SMALLEST_EXPONENT) - MANTISSA_BITS
    return torch.ldexp(torch.round(torch.ldexp(x, -step_exponent)), step_exponent).clamp(-E4M3_MAX, E4M3_MAX)


def quantize_activation(x: torch.Tensor, *, reciprocal: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each row in groups of 128 columns, the last group partial.

    x: [T, K] bf16 or fp32. Returns (values, scales): [T, K] fp32 numbers on the E4M3 grid, and [T, ceil(K/128)] fp32;
    a value times its group's scale approximates x. `scale = max(amax, 1e-10) / 448`, `value = rne(clamp(x / scale))`;
    reciprocal: `x * (1 / scale)` instead, which moves a value that lies within an ulp of a tie.
    """
    x = x.float()
    rows, columns = x.shape
    groups = -(-columns // BLOCK)
    padded = torch.nn.functional.pad(x, (0, groups * BLOCK - columns)).view(rows, groups, BLOCK)
    scale = padded.abs().amax(-1).clamp(min=AMAX_MIN) / E4M3_MAX
    wide = scale[..., None]
    values = nearest_e4m3(padded * (1 / wide) if reciprocal else padded / wide)
    return values.view(rows, groups * BLOCK)[:, :columns], scale


def nearest_e4m3(x: torch.Tensor) -> torch.Tensor:
    """`round_e4m3` through torch's own cast, which is several times faster; a test holds the two equal."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3).float()


def quantize_weight(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight in blocks of 128 x 128, edge blocks partial.

    w: [N, K] floating. Returns (values, scale_inv): [N, K] float8_e4m3fn and [ceil(N/128), ceil(K/128)] fp32, so that
    `value * scale_inv` approximates w.
    """
    w = w.float()
    rows, columns = w.shape
    tall, wide = -(-rows // BLOCK), -(-columns // BLOCK)
    padded = torch.nn.functional.pad(w, (0, wide * BLOCK - columns, 0, tall * BLOCK - rows))
    blocks = padded.view(tall, BLOCK, wide, BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=AMAX_MIN) / E4M3_MAX
    values = (blocks / scale[:, None, :, None]).clamp(-E4M3_MAX, E4M3_MAX)
    return values.reshape(tall * BLOCK, wide * BLOCK)[:rows, :columns].to(E4M3).contiguous(), scale


Q8_0_BLOCK = 32
"""Values of a Q8_0 block."""


def round_q8_0(x: torch.Tensor, *, half_even: bool = False) -> torch.Tensor:
    """[..., K] rounded to ggml's Q8_0 and back, fp32: blocks of 32, a scale in fp16, whole numbers -127..127.

    The scale is the block's largest magnitude over 127; numbers are multiplied by one over the scale, before it is
    itself rounded to fp16, and rounded halves away from zero. BF16 values often lie on a tie: the product decides.
    half_even: halves to the even number instead. Raises ShapeError unless 32 divides K.
    Source: `quantize_row_q8_0_ref` and `dequantize_row_q8_0` of ggml-quants.c.
    """
    if x.shape[-1] % Q8_0_BLOCK:
        raise ShapeError(
            place="rounding to Q8_0",
            expected=f"a last axis that {Q8_0_BLOCK} divides",
            found=str(x.shape[-1]),
            next_step="ggml stores such a matrix in another type; so must the emulation.",
        )
    blocks = x.float().unflatten(-1, (-1, Q8_0_BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scaled = blocks * torch.where(scale > 0, 1 / scale, 0)
    whole = scaled.round() if half_even else torch.trunc(scaled + torch.copysign(torch.tensor(0.5), scaled))
    return (whole * scale.half().float()).flatten(-2)
