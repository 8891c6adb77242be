"""On which narrower grid do the values of a weight lie? By the bits that they need, and by E4M3 under its scales."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.e4m3_grid import LARGEST, NEAR, ON_GRID

FORMATS = {3: "E5M2", 4: "E4M3", 8: "bfloat16", 11: "float16"}
"""Significand bits of a format, its implicit one included (OCP 8-bit floating point 1.0, table 1; IEEE 754)."""

BLOCK = 128
"""Edge of the blocks that share a scale, and rows that are asked."""

FEWEST = 64
"""Values that tell a scaled grid: of 64, at most a fifth lies on it by chance (`e4m3_grid.NEAR`)."""

SCALES = ("the tensor", "each row", "each 128x128 block")


def significant_bits(bits: torch.Tensor) -> int:
    """The most significand bits that any value needs, 1 to 24; bits: fp32 values as int32. Of zeros alone, 1.

    A scale of a power of two changes nothing, hence a format under such a scale is told by them.
    """
    used = int(np.bitwise_or.reduce(bits.numpy().reshape(-1) & 0x7FFFFF, initial=0))
    return 24 - ((used & -used).bit_length() - 1) if used else 1


def e4m3_scale(values: torch.Tensor) -> str:
    """For what one scale of amax / 448 stands under which the values [R, C] fp32 are E4M3's; empty where they are not.

    Asked of the first BLOCK rows; a scale of the tensor is that of all.
    """
    if values.ndim != 2 or values.numel() < FEWEST or not bool(torch.isfinite(values).all()):
        return ""
    some = values[:BLOCK]
    width = some.shape[1]
    scales = {
        "the tensor": values.abs().max().expand(len(some), width),
        "each row": some.abs().amax(1, keepdim=True).expand(-1, width),
        "each 128x128 block": torch.cat([part.abs().max().expand_as(part) for part in some.split(BLOCK, 1)], 1),
    }
    return next((name for name in SCALES if _on_grid(some, scales[name] / LARGEST)), "")


def _on_grid(values: torch.Tensor, scale: torch.Tensor) -> bool:
    scaled = values / scale.clamp(min=1e-30)
    rounded = scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()
    there = values != 0
    on = ((scaled - rounded).abs() <= NEAR * scaled.abs()) & there
    return int(there.sum()) >= FEWEST and float(on.sum()) >= ON_GRID * float(there.sum())
