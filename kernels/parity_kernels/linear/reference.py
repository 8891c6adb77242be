"""What does a linear compute, in plain torch, and how far may an fp32-accumulating kernel be from it?"""

from __future__ import annotations

import torch

GROUP = 128


def linear_fp8_reference(
    q: torch.Tensor,
    s: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    *,
    compute_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """q [T, K], s [T, KB], weight [N, K], weight_scale [NB, KB]; returns [T, N] in `compute_dtype`, not rounded.

    A partial sum per 128 columns of K, times s * weight_scale, added in K order.
    """
    total = torch.zeros(q.shape[0], weight.shape[0], dtype=compute_dtype, device=q.device)
    block_of_col = torch.arange(weight.shape[0], device=q.device) // GROUP
    for group, start in enumerate(range(0, q.shape[1], GROUP)):
        x, w = (m[:, start : start + GROUP].to(compute_dtype) for m in (q, weight))
        scale = s[:, group, None].to(compute_dtype) * weight_scale[block_of_col, group].to(compute_dtype)
        total += (x @ w.T) * scale
    return total


def linear_bf16_reference(
    x: torch.Tensor, weight: torch.Tensor, *, compute_dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """x [T, K], weight [N, K]; returns [T, N] in `compute_dtype`, not rounded."""
    return x.to(compute_dtype) @ weight.to(compute_dtype).T


def linear_bound(
    reference: torch.Tensor, magnitude: torch.Tensor, depth: int, *, accumulator_bits: int, out_dtype: torch.dtype
) -> torch.Tensor:
    """Largest error of a kernel against `reference` (fp64), elementwise.

    magnitude: the same linear of absolute values, fp64. depth: K. accumulator_bits: significant bits kept by each
    addition: 24 in fp32; 22 for bf16 tensor cores, which truncate (Fasi et al. 2021, "Numerical behavior of NVIDIA
    tensor cores"); 14, truncated, within an fp8 instruction (DeepSeek-V3 report, arXiv 2412.19437, section 3.3.2).
    Sum of K products in any order: at most (K - 1) u per unit of magnitude (Higham 2002, eq. 3.5); scales, their
    product and the fused or unfused add: 4 u of fp32. An fp8 instruction truncates each of its 32 products once.
    Rounding of the result: 2^-8 relative to bf16, none (already fp32) otherwise.
    """
    sums = depth + 4
    inner = sums * 2.0**-24 if accumulator_bits == 24 else sums * 2.0**-22
    if accumulator_bits == 14:
        inner += 32 * 2.0**-13
    final = 2.0**-8 if out_dtype == torch.bfloat16 else 0.0
    return reference.abs() * final + (1 + final) * inner * magnitude + 2.0**-133
