"""How many programs does the weighted combine need, and of which tile?"""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2


def combine_launch(*, n_tokens: int, hidden: int) -> Launch:
    """Tiles of tokens by columns; every program walks all slots of its tokens."""
    if interpreted():
        rows, columns = min(512, next_power_of_2(max(n_tokens, 1))), min(1024, next_power_of_2(max(hidden, 1)))
    else:
        rows, columns = 8, min(512, next_power_of_2(max(hidden, 1)))
    programs, blocks = ceil_div(n_tokens, rows), ceil_div(hidden, columns)
    return Launch(
        op="combine",
        grid=(programs, blocks),
        block={"t": rows, "d": columns},
        covers={"tokens": programs * rows, "columns": blocks * columns},
        requires={"tokens": n_tokens, "columns": hidden},
    )
