"""What is a cache write, in plain torch? No arithmetic: the one op whose result must be bit-equal in every dtype."""

from __future__ import annotations

import torch


def kv_write_reference(
    k: torch.Tensor,
    v: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    """k, v: [T, G, K]; caches [slots, L, G, K], written in place at (slots[t], positions[t])."""
    cache_k[slots.long(), positions.long()] = k
    cache_v[slots.long(), positions.long()] = v
