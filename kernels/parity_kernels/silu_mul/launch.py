"""How many programs does silu(gate) * up need, and of which tile?"""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2


def silu_mul_quant_launch(*, n_rows: int, width: int) -> Launch:
    """Tiles are one quantization group (128 columns) wide."""
    groups = ceil_div(width, 128)
    rows = min(1024, next_power_of_2(max(n_rows, 1))) if interpreted() else 16
    programs = ceil_div(n_rows, rows)
    return Launch(
        op="silu_mul_quant",
        grid=(programs, groups),
        block={"r": rows, "f": 128},
        covers={"rows": programs * rows, "columns": groups * 128},
        requires={"rows": n_rows, "columns": width},
    )


def silu_mul_launch(*, n_rows: int, width: int) -> Launch:
    """Without quantization there are no groups: in the interpreter a tile is as wide as a row."""
    columns = min(1024, next_power_of_2(max(width, 1))) if interpreted() else 128
    rows = min(1024, next_power_of_2(max(n_rows, 1))) if interpreted() else 16
    programs, blocks = ceil_div(n_rows, rows), ceil_div(width, columns)
    return Launch(
        op="silu_mul",
        grid=(programs, blocks),
        block={"r": rows, "f": columns},
        covers={"rows": programs * rows, "columns": blocks * columns},
        requires={"rows": n_rows, "columns": width},
    )
