"""Faults of experts, norms, residuals, weights and sampling that are not among the shipped ones, in one place each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from parity.faults import Fault, where
from parity.fingerprint import causes
from parity.records import Site, Slice
from parity_kernels.combine.launch import combine_launch
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch
from parity_kernels.launch import Launch

Op = Callable[..., Any]
ACTIVATION = ("silu_mul_quant", "silu_mul")


def at(layer: int | None, role: str, changed: Callable[..., Any]) -> Callable[[Op], Op]:
    """A wrap: `changed(op, *operands, **rest)` in that layer and role, the op itself elsewhere."""

    def wrap(op: Op) -> Op:
        def call(*args: Any, **rest: Any) -> Any:
            here = where().layer == layer and where().role == role
            return changed(op, *args, **rest) if here else op(*args, **rest)

        return call

    return wrap


def planted(
    name: str, layers: tuple[int, ...], stage: str, cause: str, summary: str, *, experts: tuple[int, ...] | None = None,
    also: tuple[str, ...] = (), **what: Any,
) -> Fault:  # fmt: skip
    others = tuple(Site(layers, other) for other in also)
    truth = Site(layers, stage, Slice(experts=experts))
    return Fault(name=name, family="qwen3_moe", summary=summary, truth=truth, also=others, cause=cause, **what)


def second_slot_lost(op: Op, down: torch.Tensor, slot_row: torch.Tensor, weights: torch.Tensor, **rest: Any) -> Any:
    weights = weights.clone()
    weights[300:, 1] = 0
    return op(down, slot_row, weights, **rest)


def end_of_vocabulary_zero(op: Op, *args: Any, **rest: Any) -> Any:
    out = op(*args, **rest)
    out[:, 4000:] = 0
    return out


def attention_lost(op: Op, x: torch.Tensor, residual: torch.Tensor, *args: Any, **rest: Any) -> Any:
    return op(x if residual is None else torch.zeros_like(x), residual, *args, **rest)


def gate_and_up_exchanged(op: Op, gate_up: torch.Tensor, **rest: Any) -> Any:
    return op(gate_up.flip(1).contiguous(), **rest)


def clipped(op: Op, gate_up: torch.Tensor, **rest: Any) -> Any:
    return op(gate_up.clamp(-1.0, 1.0), **rest)


def next_experts(op: Op, *args: Any, **rest: Any) -> Any:
    ids, weights = op(*args, **rest)
    ids[100:] = (ids[100:] + 1) % 12
    return ids, weights


def rows_late(op: Op, *args: Any, **rest: Any) -> Any:
    out = op(*args, **rest)
    if len(out) > 130:
        out[130:] = out[129:-1].clone()
    return out


def tenth_of_the_grid_missing(**sizes: Any) -> Launch:
    sound = combine_launch(**sizes)
    if where().layer != 3 or sizes["n_tokens"] <= 64:
        return sound
    return replace(sound, grid=(sound.grid[0] - max(1, sound.grid[0] // 10), *sound.grid[1:]))


def one_and_a_half_loads(*, op: str, n_tokens: int, top_k: int, n_experts: int, **rest: Any) -> Launch:
    sound = grouped_gemm_launch(op=op, n_tokens=n_tokens, top_k=top_k, n_experts=n_experts, **rest)
    if where().layer != 2:
        return sound
    tile = sound.block["m"]
    tiles = min(-(-3 * n_tokens * top_k // (2 * n_experts * tile)), sound.grid[0])
    return replace(sound, grid=(tiles, *sound.grid[1:]), covers={**sound.covers, "rows_per_expert": tiles * tile})


def exchanged(t: torch.Tensor) -> torch.Tensor:
    order = list(range(len(t)))
    order[3], order[8] = 8, 3
    return t[order]


def some_rows_moved(t: torch.Tensor) -> torch.Tensor:
    return torch.cat([t[:200], t[201:261], t[260:]])


def rolled(t: torch.Tensor) -> torch.Tensor:
    return t.view(torch.uint8).roll(1, 0).view(t.dtype) if t.element_size() == 1 else t.roll(1, 0)


def weight(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Mapping[str, Any]:
    return {name: lambda _, tensor: change(tensor)}


MLP = "model.layers.{}.mlp."
FAULTS = [
    planted("second_slot_not_added", (1,), "moe.experts", causes.MISSING_EXPERT, "Late rows lack one expert.",
            op="combine", wrap=at(1, "moe.experts", second_slot_lost)),
    planted("end_of_vocabulary", (), "logits", causes.COLUMN_SEGMENT, "The logits of the last 96 ids are zero.",
            op="linear_bf16", wrap=at(None, "logits", end_of_vocabulary_zero)),
    planted("attention_not_added", (2,), "mlp.norm", causes.MISSING_RESIDUAL, "Attention is not added.",
            also=("resid.mid",), op="add_rmsnorm", wrap=at(2, "mlp.norm", attention_lost)),
    planted("gate_and_up_exchanged", (1,), "moe.act", causes.GATE_UP_SWAPPED, "Gate and up, exchanged.",
            also=("moe.gate", "moe.up"), op=ACTIVATION, wrap=at(1, "moe.act", gate_and_up_exchanged)),
    planted("activation_clipped", (3,), "moe.act", causes.SATURATED, "Gate and up are clipped to one.",
            also=("moe.gate", "moe.up"), op=ACTIVATION, wrap=at(3, "moe.act", clipped)),
    planted("experts_off_by_one", (2,), "moe.topk_ids", causes.ROUTER_WRONG_IDS, "Late ids are the next ones.",
            op="router", wrap=at(2, "moe.router_logits", next_experts)),
    planted("rows_late", (0,), "attn.out", causes.ROWS_SHIFTED, "From row 130 on each row is the one before.",
            op="linear_fp8", wrap=at(0, "attn.out", rows_late), needs={"recipe": "fp8_block"}),
    planted("combine_grid_short", (3,), "moe.experts", causes.ROWS_UNWRITTEN, "A tenth of the grid is missing.",
            launch={"combine": tenth_of_the_grid_missing}),
    planted("cap_of_one_and_a_half", (2,), "moe.gate", causes.STALE, "The grid covers 1.5 average loads.",
            also=("moe.up", "moe.down"), launch={"grouped_gemm": one_and_a_half_loads}),
    planted("router_rows_exchanged", (2,), "moe.router_logits", causes.COLUMN_SEGMENT, "Two router rows, exchanged.",
            weights=weight(MLP.format(2) + "gate.weight", exchanged)),
    planted("scales_five_percent_large", (3,), "moe.down", causes.CONSTANT_RATIO, "Scales 5 % too large.",
            experts=(6,), weights=weight(MLP.format(3) + "experts.6.down_proj.weight_scale_inv", lambda t: t * 1.05),
            needs={"recipe": "fp8_block"}),
    planted("up_rolled_by_one_row", (0,), "moe.up", causes.COLUMNS_PERMUTED, "It begins a row late.",
            experts=(4,), weights=weight(MLP.format(0) + "experts.4.up_proj.weight", rolled)),
    planted("embedding_rows_moved", (), "embed.out", causes.ROWS_SHIFTED, "Sixty rows, one late.",
            weights=weight("model.embed_tokens.weight", some_rows_moved)),
    planted("norm_without_its_one", (2,), "mlp.norm", causes.CHANNEL_RATIO, "A norm's weight is stored as w - 1.",
            weights=weight("model.layers.2.post_attention_layernorm.weight", lambda w: w - 1)),
    planted("eps_a_hundredth", (), "attn.norm", causes.CONFIG_VALUE, "The norms' eps is 0.01.", rung="config",
            config={"rms_eps": 1e-2}),
    Fault(name="repetition_penalty_on", family="qwen3_moe", summary="It is on by default.", truth=None,
          rung="decode", cause=causes.SAMPLER, engine={"repetition_penalty": 1.3}),
    Fault(name="frequency_penalty_on", family="qwen3_moe", summary="A frequency penalty is on by default.", truth=None,
          rung="decode", cause=causes.SAMPLER, engine={"frequency_penalty": 0.7}),
]  # fmt: skip
