"""What is silu(gate) * up, and its FP8 quantization, in plain torch?"""

from __future__ import annotations

import torch


def silu_mul_reference(gate_up: torch.Tensor, *, compute_dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """gate_up: [R, 2, F]; returns silu(gate) * up, [R, F] in `compute_dtype`, not rounded to bf16.

    Source: Shazeer 2020, arXiv 2002.05202 (SwiGLU); silu(x) = x / (1 + exp(-x)).
    """
    gate, up = gate_up[:, 0].to(compute_dtype), gate_up[:, 1].to(compute_dtype)
    return gate / (1 + torch.exp(-gate)) * up


def group_scale_reference(act: torch.Tensor, *, compute_dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """act: [R, F]; returns max(amax, 1e-10) / 448 of each row's groups of 128 columns, [R, ceil(F/128)]."""
    groups = [group.to(compute_dtype).abs().amax(dim=1) for group in act.split(128, dim=1)]
    return torch.stack(groups, dim=1).clamp_min(1e-10) / 448 if groups else act.new_empty((len(act), 0))
