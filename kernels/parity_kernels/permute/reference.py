"""What is the permutation, in plain torch? A stable argsort; all integers, so there is no compute dtype."""

from __future__ import annotations

import torch


def permute_reference(
    ids: torch.Tensor, *, n_experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids: [T, S]; returns (row_token [R], row_slot [R], expert_offsets [E+1], slot_row [T, S]), all int32."""
    flat = ids.flatten().long()
    order = torch.sort(flat, stable=True).indices
    offsets = torch.zeros(n_experts + 1, dtype=torch.int64, device=ids.device)
    offsets[1:] = torch.bincount(flat, minlength=n_experts).cumsum(0)
    slot_row = torch.empty_like(order)
    slot_row[order] = torch.arange(len(order), device=ids.device)
    top_k = max(ids.shape[1], 1)
    row_token, row_slot = order // top_k, order % top_k
    i32 = torch.int32
    return row_token.to(i32), row_slot.to(i32), offsets.to(i32), slot_row.view(ids.shape).to(i32)
