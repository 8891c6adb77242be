"""What do q/k norm and rope compute, in plain torch, and how far may an fp32 kernel be from it?"""

from __future__ import annotations

import torch


def head_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, *, eps: float, compute_dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """x [T, H, K], weight [K]; RMSNorm of every head, in `compute_dtype`, not rounded."""
    wide = x.to(compute_dtype)
    return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.to(compute_dtype)


def rope_reference(
    x: torch.Tensor, positions: torch.Tensor, inv_freq: torch.Tensor, *, compute_dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """x [T, H, K], positions [T], inv_freq [K/2] fp32; rotate-half rope in `compute_dtype`, not rounded.

    The angle is rounded to fp32 in every compute dtype: fp32(position) * inv_freq is the recipe's definition.
    """
    angle = (positions.to(torch.float32)[:, None] * inv_freq.to(torch.float32)).to(compute_dtype)[:, None, :]
    low, high = x.to(compute_dtype).chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def head_norm_bound(reference: torch.Tensor) -> torch.Tensor:
    """As add_rmsnorm's: (K/2 + 6) 2^-24 for the fp32 part and 2^-8 for the rounding, relative."""
    inner = (reference.shape[-1] / 2 + 6) * 2.0**-24
    return reference.abs() * (2.0**-8 + (1 + 2.0**-8) * inner) + 2.0**-133


def rope_bound(x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Largest error of rope against `reference` (fp64) on the same bf16 `x`.

    2^-8 relative for the rounding, and (|low| + |high|) (2^-22 + 3 * 2^-24) for the fp32 part: cos and sin to 2 ulp of
    1 (numpy's, and CUDA's cosf and sinf), two products and one addition.
    """
    low, high = x.double().abs().chunk(2, dim=-1)
    inner = torch.cat((low + high, low + high), dim=-1) * (2.0**-22 + 3 * 2.0**-24)
    return reference.abs() * 2.0**-8 + (1 + 2.0**-8) * inner + 2.0**-133
