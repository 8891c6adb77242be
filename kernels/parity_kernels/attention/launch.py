"""Which tiles do prefill and decode use, and how many programs?

The key tile is part of the numbers: P is rounded to bf16 relative to the running maximum, which moves once a tile.
Prefill and decode therefore share it, tiles start at position 0, and a chunk boundary does not change them.
"""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2


def key_tile(head_dim: int) -> int:
    """Keys a step of the online softmax looks at."""
    if interpreted():
        return 512
    return 64 if head_dim <= 128 else 32


def attention_prefill_launch(*, max_rows: int, n_heads: int, n_requests: int, head_dim: int) -> Launch:
    """max_rows: rows of the longest request of the step; programs of shorter requests return at once."""
    compiled = 128 if head_dim <= 128 else 64
    tile = min(256, max(16, next_power_of_2(max(max_rows, 1)))) if interpreted() else compiled
    tiles = ceil_div(max_rows, tile)
    return Launch(
        op="attention_prefill",
        grid=(tiles, n_heads, n_requests),
        block={"m": tile, "n": key_tile(head_dim)},
        covers={"rows": tiles * tile},
        requires={"rows": max_rows},
    )


def attention_decode_launch(*, n_requests: int, n_heads: int, n_kv_heads: int, head_dim: int) -> Launch:
    """One program a (request, kv head); its tile holds the query heads that share it, padded to what tl.dot takes."""
    group = n_heads // n_kv_heads
    return Launch(
        op="attention_decode",
        grid=(n_requests, n_kv_heads),
        block={"h": max(16, next_power_of_2(max(group, 1))), "n": key_tile(head_dim)},
        covers={"requests": n_requests, "heads": n_heads},
        requires={"requests": n_requests, "heads": n_heads},
    )
