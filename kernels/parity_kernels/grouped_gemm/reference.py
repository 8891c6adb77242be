"""What is a grouped linear, in plain torch? One matmul an expert; block-FP8 operands are dequantized first."""

from __future__ import annotations

import torch


def dequantize_rows(q: torch.Tensor, scale: torch.Tensor, compute_dtype: torch.dtype) -> torch.Tensor:
    """q: [M, K] e4m3, scale: [M, ceil(K/128)]; returns [M, K]."""
    return q.to(compute_dtype) * scale.to(compute_dtype).repeat_interleave(128, dim=1)[:, : q.shape[1]]


def dequantize_blocks(weight: torch.Tensor, scale: torch.Tensor, compute_dtype: torch.dtype) -> torch.Tensor:
    """weight: [..., N, K] e4m3, scale: [..., ceil(N/128), ceil(K/128)]; edge blocks partial; returns [..., N, K]."""
    wide = scale.to(compute_dtype).repeat_interleave(128, dim=-2).repeat_interleave(128, dim=-1)
    return weight.to(compute_dtype) * wide[..., : weight.shape[-2], : weight.shape[-1]]


def grouped_gemm_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    n_rows: int,
    compute_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """x: [M, K], weight: [E, P, N, K] (dequantized where they were FP8); returns [R, P, N] in `compute_dtype`."""
    n_experts, parts, columns, depth = weight.shape
    rows = x if row_index is None else x[row_index.long()]
    out = torch.zeros((n_rows, parts, columns), dtype=compute_dtype, device=x.device)
    offsets = expert_offsets.tolist()
    for expert in range(n_experts):
        own = slice(offsets[expert], offsets[expert + 1])
        matrix = weight[expert].to(compute_dtype).reshape(parts * columns, depth)
        out[own] = (rows[own].to(compute_dtype) @ matrix.T).view(-1, parts, columns)
    return out
