"""A grouped GEMM whose grid is sized for twice the average expert load drops the rows of overloaded experts."""

from __future__ import annotations

from typing import Any

from parity.faults import Fault
from parity.records import Site
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch
from parity_kernels.launch import Launch, ceil_div


def capped_launch(*, op: str, n_tokens: int, top_k: int, n_experts: int, **rest: Any) -> Launch:
    """The incident's own arithmetic: `max_m_tiles = ceil(2 * avg_rows_per_expert / 64)`."""
    sound = grouped_gemm_launch(op=op, n_tokens=n_tokens, top_k=top_k, n_experts=n_experts, **rest)
    tile = sound.block["m"]
    average = ceil_div(n_tokens * top_k, n_experts)
    tiles = min(ceil_div(2 * average, tile), sound.grid[0])
    return Launch(
        op=sound.op,
        grid=(tiles, *sound.grid[1:]),
        block=sound.block,
        covers={**sound.covers, "rows_per_expert": tiles * tile},
        requires=sound.requires,
    )


FAULTS = [
    Fault(
        name="moe_tile_truncation",
        family="qwen3_moe",
        summary="The grouped GEMM's grid covers twice the average expert load; rows beyond are never computed.",
        truth=Site(layers=(), stage="moe.gate"),
        cause="rows past a tile edge were never written",
        launch={"grouped_gemm": capped_launch},
        engine={"zeroed_arena": True},
    ),
]
