"""What do earlier tokens leave behind? The key/value cache: one slot a request, one row a position."""

from __future__ import annotations

import torch


class KVCache:
    """Keys (after rope) and values of every layer: [layers][slots, positions, G, K] in bf16.

    Slots are handed out by index and never cleared: attention reads only positions it was told have been written.
    """

    def __init__(
        self, *, layers: int, slots: int, positions: int, kv_heads: int, head_dim: int, device: torch.device
    ) -> None:
        shape = (slots, positions, kv_heads, head_dim)
        self.keys = [torch.empty(shape, dtype=torch.bfloat16, device=device) for _ in range(layers)]
        self.values = [torch.empty(shape, dtype=torch.bfloat16, device=device) for _ in range(layers)]
        self.slots = slots
        self.positions = positions
