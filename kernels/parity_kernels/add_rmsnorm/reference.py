"""What does add + RMSNorm compute, in plain torch, and how far may an fp32 kernel be from it?"""

from __future__ import annotations

import torch


def add_rmsnorm_reference(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float,
    compute_dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual: [T, D], weight: [D]; returns (normed in `compute_dtype`, summed in x.dtype).

    The sum is rounded to x.dtype before the norm (the residual stream is stored in it); the norm itself is not rounded.
    """
    summed = x if residual is None else (x.to(compute_dtype) + residual.to(compute_dtype)).to(x.dtype)
    wide = summed.to(compute_dtype)
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return wide * scale * weight.to(compute_dtype), summed


def add_rmsnorm_bound(reference: torch.Tensor) -> torch.Tensor:
    """Largest error of the kernel against `reference` [T, D] (fp64), elementwise.

    u = 2^-24. Squares and a sum of D non-negative terms in any order: relative error at most D u (Higham 2002, eq.
    4.4), halved by the square root; division, eps, rsqrt (2 ulp on the GPU), two products: 6 u more.
    Then one rounding to bf16: 2^-8 relative.
    """
    u = 2.0**-24
    inner = (reference.shape[-1] / 2 + 6) * u
    return reference.abs() * (2.0**-8 + (1 + 2.0**-8) * inner) + 2.0**-133  # half of bf16's smallest subnormal, doubled
