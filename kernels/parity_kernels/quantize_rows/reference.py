"""What does the quantization of rows compute, in plain torch, and how far is a dequantized value from what it was?"""

from __future__ import annotations

import torch

GROUP, LARGEST, FLOOR = 128, 448.0, 1e-10  # columns a scale, largest E4M3 value, smallest amax


def quantize_rows_reference(
    x: torch.Tensor, *, compute_dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """x: [T, K]; returns (x / s in `compute_dtype` before the cast to E4M3, [T, K]; s [T, ceil(K/128)]).

    In fp32 every step is the recipe's, so casting the first result to E4M3 gives the kernel's bits.
    """
    rows, cols = x.shape
    groups = -(-cols // GROUP)
    padded = torch.zeros(rows, groups * GROUP, dtype=compute_dtype, device=x.device)
    padded[:, :cols] = x.to(compute_dtype)
    grouped = padded.view(rows, groups, GROUP)
    # A tensor on the device: torch divides by a number there as a product with its rounded reciprocal.
    largest = padded.new_full((), LARGEST)
    scale = grouped.abs().amax(dim=-1).clamp(min=FLOOR) / largest if padded.numel() else padded.new_zeros(rows, groups)
    scaled = (grouped / scale[:, :, None]).clamp(-LARGEST, LARGEST)
    return scaled.reshape(rows, groups * GROUP)[:, :cols], scale


def dequantized_bound(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Largest |q * s - x| elementwise, fp64: half a step of E4M3 and two fp32 divisions.

    E4M3 has 4 significant bits: 2^-4 relative for normals (|x/s| >= 2^-6), and 2^-10 * s, half its subnormal step
    of 2^-9, below. The divisions add 2 * 2^-24 relative.
    """
    wide = scale.double().repeat_interleave(GROUP, dim=1)[:, : x.shape[1]]
    return torch.maximum(x.double().abs() * 2.0**-4, wide * 2.0**-10) * (1 + 2.0**-22)
