"""How many programs does the quantization of rows need? A tile is `m` rows by `g` groups of 128 columns."""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2

GROUP = 128  # columns that share a scale


def quantize_rows_launch(*, n_rows: int, n_cols: int) -> Launch:
    """A group lies within one tile whatever its size, so results do not depend on the tile."""
    groups = ceil_div(n_cols, GROUP)
    if interpreted():
        wide = min(32, next_power_of_2(max(groups, 1)))
        tile = min(2**19 // (wide * GROUP), next_power_of_2(max(n_rows, 1)))
    else:
        wide, tile = 4, 4
    programs = (ceil_div(n_rows, tile), ceil_div(groups, wide))
    return Launch(
        op="quantize_rows",
        grid=programs,
        block={"m": tile, "g": wide},
        covers={"rows": programs[0] * tile, "groups": programs[1] * wide},
        requires={"rows": n_rows, "groups": groups},
    )
