"""The up projection of one expert's tile of rows comes out several times too large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import TILE_AMPLIFIED
from parity.records import Site, Slice
from parity_kernels.grouped_gemm.launch import TILE_ROWS

UP = 1


def amplified_tile(*, layer: int, expert: int, tile: int, ratio: float) -> Any:
    """Wraps a grouped GEMM: the real kernel computes one (expert, tile) again, with the up part's scales `ratio` times
    theirs (its weights in bf16). An expert with fewer rows than the tile begins at is left as it is."""

    def wrap(op: Any) -> Any:
        def amplified(*operands: torch.Tensor, expert_offsets: torch.Tensor, launch: Any, **rest: Any) -> torch.Tensor:
            out = op(*operands, expert_offsets=expert_offsets, launch=launch, **rest)
            now = where()
            if now.role != "moe.gate_up" or now.layer != layer:
                return out
            start = torch.minimum(expert_offsets[expert] + tile * TILE_ROWS, expert_offsets[expert + 1])
            stop = torch.minimum(start + TILE_ROWS, expert_offsets[expert + 1])
            *others, scaled = operands  # the scales of an FP8 weight come last, a bf16 weight does itself
            scaled = scaled[expert : expert + 1].clone()
            scaled[:, UP] *= ratio
            if len(others) == 3:
                others[2] = others[2][expert : expert + 1]
            own = replace(launch, grid=(1, launch.grid[1], 1))
            return op(*others, scaled, expert_offsets=torch.stack((start, stop)), launch=own, **{**rest, "out": out})

        return amplified

    return wrap


def tile_amplified(*, layer: int, expert: int, tile: int, ratio: float) -> Fault:
    """The fault in that layer, expert and tile of 64 of its rows."""
    where_rows = Slice(experts=(expert,), rows=tuple(range(tile * TILE_ROWS, (tile + 1) * TILE_ROWS)))
    return Fault(
        name="moe_tile_amplified",
        family="qwen3_moe",
        summary="A kernel is wrong for one tile of one expert: its up projection is several times too large.",
        truth=Site((layer,), "moe.up", where_rows),
        cause=TILE_AMPLIFIED,
        details={"ratio": ratio},
        op=("grouped_gemm_fp8", "grouped_gemm_bf16"),
        wrap=amplified_tile(layer=layer, expert=expert, tile=tile, ratio=ratio),
        instances=instance,
    )


def instance(seed: int, hyper: Mapping[str, Any]) -> Fault:
    draw = Draw("moe_tile_amplified", seed, hyper)
    return tile_amplified(layer=draw.layer(), expert=draw.expert(), tile=0, ratio=draw.strength(1.5, 8))


FAULTS = [tile_amplified(layer=1, expert=1, tile=0, ratio=5.0)]
