"""What is the weighted combine, in plain torch?"""

from __future__ import annotations

import torch


def combine_reference(
    down: torch.Tensor,
    slot_row: torch.Tensor,
    weights: torch.Tensor,
    *,
    compute_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """down: [R, D], slot_row: [T, S], weights: [T, S]; returns [T, D] in `compute_dtype`, slots added in order."""
    out = torch.zeros((len(slot_row), down.shape[1]), dtype=compute_dtype, device=down.device)
    for slot in range(slot_row.shape[1]):
        rows = down[slot_row[:, slot].long()].to(compute_dtype)
        out = out + weights[:, slot, None].to(compute_dtype) * rows
    return out
