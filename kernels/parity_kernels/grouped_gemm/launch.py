"""How many row tiles does the grouped GEMM's grid offer to each expert, and how many does the busiest one need?

The grid is sized before the host knows how many rows the router gave to each expert. A grid that is too small raises
nothing: rows past it are never written, and `out` keeps whatever it held.
"""

from __future__ import annotations

from collections.abc import Sequence

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2

TILE_ROWS = 64  # the same in the interpreter and on the GPU: a lost tile must look the same on both
_COMPILED_COLUMNS = 128  # one weight scale a tile
_INTERPRETED_COLUMNS = 512  # all parts where they fit: the interpreter pays per operation


def grouped_gemm_launch(
    *,
    op: str,
    n_tokens: int,
    top_k: int,
    n_experts: int,
    n_cols: int,
    n_parts: int,
    rows_per_expert: Sequence[int] | None = None,
) -> Launch:
    """The healthy grid: (row tiles of an expert, column tiles over its parts, experts).

    n_tokens: T; a token picks an expert at most once, so no expert has more than T rows and ceil(T / 64) tiles suffice
    whatever the router does. top_k is not needed for that bound; formulas that use the average row count take it.
    rows_per_expert: when known, `requires` says the true maximum instead of the worst case.
    """
    columns = _COMPILED_COLUMNS
    if interpreted():
        columns = min(_INTERPRETED_COLUMNS, max(16, next_power_of_2(max(n_cols * n_parts, 1))))
    tiles = ceil_div(n_tokens, TILE_ROWS)
    return Launch(
        op=op,
        grid=(tiles, ceil_div(n_cols * n_parts, columns), n_experts),
        block={"m": TILE_ROWS, "n": columns, "k": 128},
        covers={"rows_per_expert": tiles * TILE_ROWS},
        requires={"rows_per_expert": max(rows_per_expert, default=0) if rows_per_expert is not None else n_tokens},
    )
