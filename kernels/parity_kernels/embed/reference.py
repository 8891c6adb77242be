"""What does the embedding compute, in plain torch?"""

from __future__ import annotations

import torch


def embed_reference(
    ids: torch.Tensor, weight: torch.Tensor, *, compute_dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """ids: [T], weight: [V, D]; returns [T, D] in `compute_dtype`: a copy, exact in any wider dtype."""
    return weight[ids.long()].to(compute_dtype)
