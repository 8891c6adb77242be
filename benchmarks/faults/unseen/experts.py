"""Unseen faults of the experts: one projection, one scale, a launch, a row a tile, the tail of K, the combine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice
from parity_kernels.grouped_gemm.launch import TILE_ROWS, grouped_gemm_launch
from parity_kernels.launch import Launch

FP8 = {"recipe": "fp8_block"}


def scaled(role: str, layer: int, change: Callable[[torch.Tensor], None]) -> Callable[[Any], Any]:
    """Wrap of the FP8 grouped GEMM: other weight scales [E, P, N blocks, K blocks] in one layer."""

    def wrap(op: Any) -> Any:
        def gemm(x_q: Any, x_s: Any, weight: Any, weight_scale: torch.Tensor, **rest: Any) -> torch.Tensor:
            if (where().role, where().layer) == (role, layer):
                weight_scale = weight_scale.clone()
                change(weight_scale)
            return op(x_q, x_s, weight, weight_scale, **rest)

        return gemm

    return wrap


def two_percent(scale: torch.Tensor) -> None:
    scale[8] *= 1.02


def swapped_neighbours(scale: torch.Tensor) -> None:
    scale[0, 0, 0, [1, 2]] = scale[0, 0, 0, [2, 1]]


def clipped_block(scale: torch.Tensor) -> None:
    scale[8:, 1, 1] = scale[8:, 1, 0]


def up_before_gate(op: Any) -> Any:
    """Expert 11 of layer 0 was stored up first."""

    def gemm(x_q: Any, x_s: Any, weight: torch.Tensor, weight_scale: torch.Tensor, **rest: Any) -> torch.Tensor:
        if (where().role, where().layer) == ("moe.gate_up", 0):
            raw = weight.view(torch.uint8).clone()
            raw[11] = raw[11].flip(0)
            weight, weight_scale = raw.view(weight.dtype), weight_scale.clone()
            weight_scale[11] = weight_scale[11].flip(0)
        return op(x_q, x_s, weight, weight_scale, **rest)

    return gemm


def two_and_a_half_averages(**extents: Any) -> Launch:
    """The second GEMM's grid covers 2.5 times the average load of an expert."""
    made = grouped_gemm_launch(**extents)
    if extents["op"] != "down":
        return made
    average = extents["n_tokens"] * extents["top_k"] / extents["n_experts"]
    tiles = min(made.grid[0], max(1, math.ceil(2.5 * average / TILE_ROWS)))
    return replace(made, grid=(tiles, *made.grid[1:]), covers={"rows_per_expert": tiles * TILE_ROWS})


def last_row_of_a_tile(row_index: torch.Tensor, expert_offsets: torch.Tensor) -> torch.Tensor:
    """[R] token rows, where row 63 of each tile of 64 is gathered from the row before it."""
    rows = torch.arange(len(row_index), device=row_index.device)
    ends = expert_offsets[1:].long()
    local = rows - expert_offsets.long()[torch.searchsorted(ends, rows, right=True)]
    return torch.where(local % TILE_ROWS == TILE_ROWS - 1, row_index.roll(1), row_index).contiguous()


def gathered_late(op: Any) -> Any:
    def gemm(*args: Any, row_index: Any, expert_offsets: torch.Tensor, **rest: Any) -> torch.Tensor:
        if where().role == "moe.gate_up" and where().layer in (2, 3):
            row_index = last_row_of_a_tile(row_index, expert_offsets)
        return op(*args, row_index=row_index, expert_offsets=expert_offsets, **rest)

    return gemm


def whole_blocks_of_k(op: Any) -> Any:
    """The loop over K runs floor(K / 128) times: the last 32 of 160 inputs are not read."""

    def gemm(x: torch.Tensor, *args: Any, **rest: Any) -> torch.Tensor:
        if where().role == "moe.down" and where().layer in (1, 3):
            raw = x.view(torch.uint8 if x.element_size() == 1 else torch.int16).clone()
            raw[:, 128:] = 0
            x = raw.view(x.dtype)
        return op(x, *args, **rest)

    return gemm


def clamped(op: Any) -> Any:
    """Another family's limit of 7 on gate and up."""

    def act(gate_up: torch.Tensor, **rest: Any) -> Any:
        gate, up = gate_up[:, 0].clamp(max=7.0), gate_up[:, 1].clamp(-7.0, 7.0)
        return op(torch.stack((gate, up), dim=1), **rest)

    return act


def rows_past_896(op: Any) -> Any:
    """A bound on expert rows: the combine leaves out what lies behind row 896."""

    def combine(down: Any, slot_row: torch.Tensor, weights: torch.Tensor, **rest: Any) -> torch.Tensor:
        return op(down, slot_row, weights.masked_fill(slot_row >= 896, 0.0), **rest)

    return combine


def rows_after_512(op: Any) -> Any:
    """Layer 0: from token 512 on, each token collects the rows of the token before it, a block's offset off by one."""

    def combine(down: Any, slot_row: torch.Tensor, weights: Any, **rest: Any) -> torch.Tensor:
        if where().layer == 0:
            slot_row = slot_row.clone()
            slot_row[512:] = slot_row[512:].roll(1, 0)
        return op(down, slot_row, weights, **rest)

    return combine


FAULTS = [
    Fault(
        name="expert_gate_up_exchanged",
        family="qwen3_moe",
        summary="Gate and up of expert 11 in layer 0 are exchanged.",
        truth=Site((0,), "moe.gate", Slice(experts=(11,))),
        also=(Site((0,), "moe.up", Slice(experts=(11,))),),
        cause="gate and up swapped",
        needs=FP8,
        op="grouped_gemm_fp8",
        wrap=up_before_gate,
    ),
    Fault(
        name="expert_down_two_percent",
        family="qwen3_moe",
        summary="The down projection of expert 8 in layer 3 is 2 % too large.",
        truth=Site((3,), "moe.down", Slice(experts=(8,))),
        cause="constant ratio",
        details={"ratio": 1.02},
        needs=FP8,
        op="grouped_gemm_fp8",
        wrap=scaled("moe.down", 3, two_percent),
    ),
    Fault(
        name="expert_scales_of_k_exchanged",
        family="qwen3_moe",
        summary="Two scales along K are exchanged in the first block of rows of expert 0's gate, layer 3.",
        truth=Site((3,), "moe.gate", Slice(experts=(0,), columns=(0, 128))),
        cause="block scales misplaced",
        needs=FP8,
        op="grouped_gemm_fp8",
        wrap=scaled("moe.gate_up", 3, swapped_neighbours),
    ),
    Fault(
        name="expert_edge_block_clipped",
        family="qwen3_moe",
        summary="Columns 128 and up of the up projection of experts 8 to 11 in layer 0 take the scale of block 0.",
        truth=Site((0,), "moe.up", Slice(experts=(8, 9, 10, 11), columns=(128, 160))),
        cause="block scales misplaced",
        needs=FP8,
        op="grouped_gemm_fp8",
        wrap=scaled("moe.gate_up", 0, clipped_block),
    ),
    Fault(
        name="expert_down_grid_short",
        family="qwen3_moe",
        summary="The second grouped GEMM covers 2.5 times the average load; the buffer keeps an earlier layer's rows.",
        truth=Site((), "moe.down"),
        cause="rows past a tile edge hold stale memory",
        launch={"grouped_gemm": two_and_a_half_averages},
    ),
    Fault(
        name="expert_row_63",
        family="qwen3_moe",
        summary="In layers 2 and 3 the last row of each tile of 64 gathers the token of the row before it.",
        truth=Site((2, 3), "moe.gate"),
        also=(Site((2, 3), "moe.up"),),
        cause="each row is its neighbour's",
        op=("grouped_gemm_fp8", "grouped_gemm_bf16"),
        wrap=gathered_late,
    ),
    Fault(
        name="expert_tail_of_k",
        family="qwen3_moe",
        summary="The down projections of layers 1 and 3 read 128 of their 160 inputs.",
        truth=Site((1, 3), "moe.down"),
        cause="part of the contraction is left out",
        op=("grouped_gemm_fp8", "grouped_gemm_bf16"),
        wrap=whole_blocks_of_k,
    ),
    Fault(
        name="expert_act_clamped",
        family="qwen3_moe",
        summary="Gate and up are limited to 7 before the activation, as another family does.",
        truth=Site((), "moe.act"),
        cause="saturated at one extreme value",
        details={"limit": 7.0},
        op=("silu_mul_quant", "silu_mul"),
        wrap=clamped,
    ),
    Fault(
        name="combine_rows_past_896",
        family="qwen3_moe",
        summary="Expert rows past 896 are not added to their tokens.",
        truth=Site((), "moe.experts"),
        cause="a routed expert's part is not added",
        op="combine",
        wrap=rows_past_896,
    ),
    Fault(
        name="combine_rows_after_512",
        family="qwen3_moe",
        summary="In layer 0 tokens from 512 on collect the expert rows of the token before them.",
        truth=Site((0,), "moe.experts", Slice(positions=(512, 1 << 20))),
        cause="each row is its neighbour's",
        op="combine",
        wrap=rows_after_512,
    ),
]
