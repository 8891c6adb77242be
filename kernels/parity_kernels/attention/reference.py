"""What is attention over a cache, in plain torch? No tiles, no running maximum: one softmax a row."""

from __future__ import annotations

import torch


def attention_reference(
    q: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    *,
    row_start: torch.Tensor,
    slots: torch.Tensor,
    first_position: torch.Tensor,
    scale: float,
    compute_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """q: [T, H, K]; caches [slots, L, G, K]; returns [T, H, K] in `compute_dtype`, not rounded.

    Decode is the case of one row a request: row_start = 0 .. B, first_position = positions.
    Source: Vaswani et al. 2017, eq. 1; kv head of query head h is h // (H / G) (Ainslie et al. 2023, arXiv 2305.13245).
    """
    out = torch.zeros(q.shape, dtype=compute_dtype, device=q.device)
    group = q.shape[1] // cache_k.shape[2]
    starts = row_start.tolist()
    for b, (slot, first) in enumerate(zip(slots.tolist(), first_position.tolist(), strict=True)):
        rows = slice(starts[b], starts[b + 1])
        n_rows = starts[b + 1] - starts[b]
        context = first + n_rows
        k = cache_k[slot, :context].to(compute_dtype).repeat_interleave(group, dim=1)
        v = cache_v[slot, :context].to(compute_dtype).repeat_interleave(group, dim=1)
        scores = torch.einsum("thk,nhk->htn", q[rows].to(compute_dtype), k) * scale
        own = torch.arange(first, context, device=q.device)
        hidden = torch.arange(context, device=q.device)[None, :] > own[:, None]
        p = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        out[rows] = torch.einsum("htn,nhk->thk", p, v)
    return out
