"""How many programs does a cache write need, and of which tile?"""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2

_TILE_ELEMENTS = 4096  # compiled: 32 elements a thread at 4 warps
_INTERPRETED_ROWS = 1024  # the interpreter pays per operation, not per element


def kv_write_launch(*, n_rows: int, n_columns: int) -> Launch:
    """n_rows: T. n_columns: G*K, the elements of one row of keys; a tile holds whole rows."""
    columns = next_power_of_2(max(n_columns, 1))
    rows = _INTERPRETED_ROWS if interpreted() else max(_TILE_ELEMENTS // columns, 1)
    rows = min(rows, next_power_of_2(max(n_rows, 1)))
    programs = ceil_div(n_rows, rows)
    return Launch(
        op="kv_write",
        grid=(programs,),
        block={"t": rows, "c": columns},
        covers={"rows": programs * rows},
        requires={"rows": n_rows},
    )
