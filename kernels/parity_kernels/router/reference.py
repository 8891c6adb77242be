"""What does the router compute, in plain torch?"""

from __future__ import annotations

import torch


def router_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    top_k: int,
    renormalize: bool,
    compute_dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x: [T, D], weight: [E, D]; returns (ids [T, S] int32, weights [T, S], logits [T, E]) in `compute_dtype`."""
    logits = x.to(compute_dtype) @ weight.to(compute_dtype).T
    # A stable descending sort keeps equal logits in the order of their ids; torch.topk promises no order of ties.
    ids = logits.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = logits.softmax(dim=-1).gather(1, ids)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return ids.to(torch.int32), weights, logits
