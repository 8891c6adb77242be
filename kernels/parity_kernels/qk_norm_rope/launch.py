"""How many programs do q/k norm and rope need? A row is one head of one token; grid axis 1 is q, then k."""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2


def qk_norm_rope_launch(*, n_tokens: int, n_heads: int, n_kv_heads: int, head_dim: int) -> Launch:
    """Enough row tiles for the larger of q and k; the tile does not change any value."""
    half = next_power_of_2(max(head_dim // 2, 1))
    rows = n_tokens * max(n_heads, n_kv_heads)
    tile = min(2**19 // half, next_power_of_2(max(rows, 1))) if interpreted() else max(1, 512 // half)
    programs = ceil_div(rows, tile)
    return Launch(
        op="qk_norm_rope",
        grid=(programs, 2),
        block={"m": tile, "j": half},
        covers={"q_rows": programs * tile, "k_rows": programs * tile},
        requires={"q_rows": n_tokens * n_heads, "k_rows": n_tokens * n_kv_heads},
    )
