"""Faults of parts, phases and small strengths in stages that the other files leave alone; rewrites that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from parity.faults import Fault, where
from parity.fingerprint import causes
from parity.records import Site, Slice

Op = Callable[..., Any]
LINEAR = ("linear_fp8", "linear_bf16")
GROUPED = ("grouped_gemm_fp8", "grouped_gemm_bf16")
ACTIVATION = ("silu_mul_quant", "silu_mul")


def at(layer: int | None, role: str, change: Callable[..., Any]) -> Callable[[Op], Op]:
    """A wrap: `change(op, *operands, **rest)` in that layer and role, the op itself elsewhere."""

    def wrap(op: Op) -> Op:
        def call(*args: Any, **rest: Any) -> Any:
            here = where().layer == layer and where().role == role
            return change(op, *args, **rest) if here else op(*args, **rest)

        return call

    return wrap


def planted(name: str, layers: tuple[int, ...], stage: str, cause: str, summary: str, **what: Any) -> Fault:
    part = Slice(heads=what.pop("heads", None), experts=what.pop("experts", None))
    also = tuple(Site(layers, other) for other in what.pop("also", ()))
    truth = Site(layers, stage, part)
    return Fault(name=name, family="qwen3_moe", summary=summary, truth=truth, also=also, cause=cause, **what)


def rare_ids_larger(op: Op, ids: torch.Tensor, *args: Any, **rest: Any) -> torch.Tensor:
    out = op(ids, *args, **rest)
    out[ids > 2000] *= 1.02
    return out


def last_channels_larger(op: Op, *args: Any, **rest: Any) -> Any:
    normed, total = op(*args, **rest)
    normed[:, 320:] *= 1.05
    return normed, total


def one_percent(op: Op, *args: Any, **rest: Any) -> torch.Tensor:
    out = op(*args, **rest)
    out[:, 64:128] = (out[:, 64:128].float() * 1.01).to(out.dtype)
    return out


def decoded_values_halved(op: Op, *args: Any, **rest: Any) -> torch.Tensor:
    out = op(*args, **rest)
    if where().phase == "decode":
        out[:, 64:] *= 0.5
    return out


def later_chunks_smaller(op: Op, *args: Any, **rest: Any) -> torch.Tensor:
    out = op(*args, **rest)
    if where().chunk > 0:
        out *= 0.97
    return out


def second_weight_larger(op: Op, *args: Any, **rest: Any) -> Any:
    ids, weights = op(*args, **rest)
    weights[:, 1] *= 1.1
    return ids, weights


def expert_one_percent(op: Op, *args: Any, expert_offsets: torch.Tensor, **rest: Any) -> torch.Tensor:
    out = op(*args, expert_offsets=expert_offsets, **rest)
    rows = slice(int(expert_offsets[4]), int(expert_offsets[5]))
    out[rows] = (out[rows].float() * 1.01).to(out.dtype)
    return out


def gate_not_activated(op: Op, gate_up: torch.Tensor, **rest: Any) -> Any:
    # silu is nearly the identity of what is large: only what is small is wrong.
    held = gate_up.clone()
    held[:, 0] = held[:, 0].clamp(min=0)
    return op(held, **rest)


def weights_of_the_next_token(op: Op, down: torch.Tensor, slots: torch.Tensor, weights: torch.Tensor, **rest: Any):
    if len(weights) > 100:
        weights = torch.cat([weights[:100], weights[100:].roll(1, 0)])
    return op(down, slots, weights, **rest)


def positions_late(op: Op, q: Any, k: Any, q_weight: Any, k_weight: Any, positions: torch.Tensor, *args: Any, **rest):
    return op(q, k, q_weight, k_weight, positions + 1, *args, **rest)


def keys_norm_weight_of_queries(op: Op, q: Any, k: Any, q_weight: Any, k_weight: Any, *args: Any, **rest: Any) -> Any:
    return op(q, k, q_weight, q_weight, *args, **rest)


def first_columns_only(op: Op, x: torch.Tensor, *args: Any, **rest: Any) -> Any:
    part = x.clone()
    part[:, 256:] = 0
    return op(part, *args, **rest)


def norm_in_float64(op: Op) -> Op:
    def call(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, *, eps: float, **rest: Any) -> Any:
        normed, total = op(x, residual, weight, eps=eps, **rest)
        wide = total.double()
        normed.copy_((wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()).to(normed.dtype))
        return normed, total

    return call


def act_by_tanh(op: Op) -> Op:
    def call(gate_up: torch.Tensor, *, out: torch.Tensor | None = None, **rest: Any) -> torch.Tensor:
        result = op(gate_up, out=out, **rest)
        gate, up = gate_up[:, 0].double(), gate_up[:, 1].double()
        result.copy_((gate * 0.5 * (1 + (gate / 2).tanh()) * up).to(result.dtype))
        return result

    return call


def combine_backwards(op: Op) -> Op:
    def call(down: torch.Tensor, slot_row: torch.Tensor, weights: torch.Tensor, **rest: Any) -> torch.Tensor:
        return op(down, slot_row.flip(1).contiguous(), weights.flip(1).contiguous(), **rest)

    return call


def halves_apart(op: Op) -> Op:
    """Rows in two calls, the second first."""

    def call(q: torch.Tensor, s: torch.Tensor, *args: Any, out: torch.Tensor | None = None, **rest: Any) -> Any:
        if len(q) < 8 or rest.get("launch") is not None:
            return op(q, s, *args, out=out, **rest)
        half = len(q) // 2
        parts = [op(q[rows], s[rows], *args, **rest) for rows in (slice(half, None), slice(None, half))]
        whole = torch.cat([parts[1], parts[0]])
        return whole if out is None else out.copy_(whole)

    return call


FAULTS = [
    planted("rare_ids_embedded_larger", (), "embed.out", causes.CONSTANT_RATIO,
            "Rows of ids over 2000 are 2 % too large.", op="embed", wrap=at(None, "embed.out", rare_ids_larger)),
    planted("last_norm_channels_larger", (), "final_norm", causes.CHANNEL_RATIO, "64 channels are 5 % too large.",
            op="add_rmsnorm", wrap=at(None, "final_norm", last_channels_larger)),
    planted("query_head_one_percent", (2,), "attn.q", causes.CONSTANT_RATIO, "One head of q is 1 % too large.",
            heads=(1,), op=LINEAR, wrap=at(2, "attn.q", one_percent)),
    planted("decoded_values_halved", (1,), "attn.v", causes.PHASE_ONLY, "In decode one head of v is halved.",
            op=LINEAR, wrap=at(1, "attn.v", decoded_values_halved)),
    planted("later_chunks_smaller", (2,), "attn.out", causes.CHUNK_BOUNDARY, "Later chunks come out 3 % too small.",
            op=LINEAR, wrap=at(2, "attn.out", later_chunks_smaller)),
    planted("second_weight_larger", (1,), "moe.topk_weights", causes.COLUMN_SEGMENT, "Second weights are 10 % large.",
            op="router", wrap=at(1, "moe.router_logits", second_weight_larger)),
    planted("down_one_percent", (1,), "moe.down", causes.CONSTANT_RATIO, "One expert's down is 1 % too large.",
            experts=(4,), op=GROUPED, wrap=at(1, "moe.down", expert_one_percent)),
    planted("negative_gates_zero", (0,), "moe.act", causes.GATE_TRANSFORM, "Gates below zero count as zero.",
            also=("moe.gate",), op=ACTIVATION, wrap=at(0, "moe.act", gate_not_activated)),
    planted("weights_of_the_next_token", (3,), "moe.experts", causes.WRONG_INPUT, "Late rows have others' weights.",
            also=("moe.topk_weights",), op="combine", wrap=at(3, "moe.experts", weights_of_the_next_token)),
    planted("positions_one_late", (1,), "attn.q_rope", causes.ROPE_POSITION, "Positions are one too large.",
            also=("attn.k_rope",), op="qk_norm_rope", wrap=at(1, "attn.q_rope", positions_late)),
    planted("key_norm_of_queries", (3,), "attn.k_norm", causes.CHANNEL_RATIO, "Keys are scaled by the queries' norm.",
            op="qk_norm_rope", wrap=at(3, "attn.q_rope", keys_norm_weight_of_queries)),
    planted("router_reads_two_thirds", (0,), "moe.router_logits", causes.HALF_OF_K, "A third of the input is unread.",
            op="router", wrap=at(0, "moe.router_logits", first_columns_only)),
    Fault(name="norm_in_float64", family="qwen3_moe", summary="Norms are computed in float64.", control=True,
          op="add_rmsnorm", wrap=norm_in_float64),
    Fault(name="silu_by_tanh", family="qwen3_moe", summary="silu by tanh, in float64.", control=True,
          op="silu_mul", wrap=act_by_tanh, needs={"recipe": "bf16"}),
    Fault(name="slots_added_backwards", family="qwen3_moe", summary="Slots are added in the other order.",
          control=True, op="combine", wrap=combine_backwards),
    Fault(name="rows_in_two_calls", family="qwen3_moe", summary="Linears run their rows in two calls.", control=True,
          op="linear_fp8", wrap=halves_apart, needs={"recipe": "fp8_block"}),
]  # fmt: skip
