"""How many programs does add + RMSNorm need? A program holds whole rows."""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2


def add_rmsnorm_launch(*, n_rows: int, n_cols: int) -> Launch:
    """One row a program when compiled; interpreted, as many rows as make a tile of about 2^19 elements."""
    width = next_power_of_2(max(n_cols, 1))
    tile = min(max(1, 2**19 // width), next_power_of_2(max(n_rows, 1))) if interpreted() else 1
    programs = ceil_div(n_rows, tile)
    return Launch(
        op="add_rmsnorm",
        grid=(programs,),
        block={"m": tile, "d": width},
        covers={"rows": programs * tile},
        requires={"rows": n_rows},
    )


def warps_for(width: int) -> int:
    """Warps of a program that holds rows of `width` (a power of two): 8 elements a thread, 16 bytes of bf16."""
    return min(16, max(1, width // 256))


def add_rmsnorm_cuda_launch(*, n_rows: int, n_cols: int) -> Launch:
    """The CUDA C++ form: a block a row, 8 columns a thread up to 8192 columns, 16 beyond; whole warps."""
    threads = min(1024, 32 * ceil_div(max(n_cols, 1), 8 * 32))
    return Launch(
        op="add_rmsnorm",
        grid=(n_rows,),
        block={"m": 1, "threads": threads},
        covers={"rows": n_rows, "cols": 16 * threads if n_cols > 8 * threads else 8 * threads},
        requires={"rows": n_rows, "cols": n_cols},
    )
