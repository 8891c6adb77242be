"""A grouped GEMM whose grid is sized for twice the average expert load drops the rows of overloaded experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import NEVER_WRITTEN
from parity.records import Site
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch
from parity_kernels.launch import Launch, ceil_div

GROUPED = ("moe.up", "moe.down")


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


def capped_in(layers: tuple[int, ...]) -> Callable[..., Launch]:
    """The same launch in some layers, the sound one in the others."""

    def launch(**sizes: Any) -> Launch:
        return capped_launch(**sizes) if where().layer in layers else grouped_gemm_launch(**sizes)

    return launch


def in_some_layers(fault: Fault, seed: int, hyper: Mapping[str, Any]) -> Fault:
    """`fault` with the cap in some layers only."""
    layers = Draw(fault.name, seed, hyper).layers()
    return replace(
        fault,
        truth=Site(layers, "moe.gate"),
        also=tuple(Site(layers, stage) for stage in GROUPED),
        launch={"grouped_gemm": capped_in(layers)},
    )


TRUNCATION = Fault(
    name="moe_tile_truncation",
    family="qwen3_moe",
    summary="The grouped GEMM's grid covers twice the average expert load; rows beyond are never computed.",
    truth=Site(layers=(), stage="moe.gate"),
    also=tuple(Site((), stage) for stage in GROUPED),
    cause=NEVER_WRITTEN,
    launch={"grouped_gemm": capped_launch},
    engine={"zeroed_arena": True},
    instances=lambda seed, hyper: in_some_layers(TRUNCATION, seed, hyper),
)
FAULTS = [TRUNCATION]
