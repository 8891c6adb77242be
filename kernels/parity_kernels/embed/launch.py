"""How many programs does the embedding need, and of which tile?"""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2


def embed_launch(*, n_tokens: int, n_cols: int) -> Launch:
    """Row blocks times column blocks; the values are copies, so no tile changes them."""
    width = next_power_of_2(max(n_cols, 1))
    if interpreted():
        tile, cols = min(1024, next_power_of_2(max(n_tokens, 1))), min(4096, width)
    else:
        tile, cols = 4, min(1024, width)
    programs = (ceil_div(n_tokens, tile), ceil_div(n_cols, cols))
    return Launch(
        op="embed",
        grid=programs,
        block={"m": tile, "d": cols},
        covers={"tokens": programs[0] * tile, "cols": programs[1] * cols},
        requires={"tokens": n_tokens, "cols": n_cols},
    )
