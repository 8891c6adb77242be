"""Defects of the router and the experts."""

import dataclasses

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch

FP8, BF16 = {"recipe": "fp8_block"}, {"recipe": "bf16"}
F = "qwen3_moe"


def up_tail_unwritten(op):
    """256 of the 320 fused columns are computed: the grid's floor of 320 / 128."""

    def gemm(*given, out=None, **rest):
        made = op(*given, out=out, **rest)
        if where().layer == 2 and where().role == "moe.gate_up":
            made[:, 1, 96:] = 0
        return made

    return gemm


def grid_without_last_expert(**extents):
    made = grouped_gemm_launch(**extents)
    tiles, columns, experts = made.grid
    return dataclasses.replace(made, grid=(tiles, columns, experts - 1))


def offset_off_by_one(op):
    def gemm(*given, expert_offsets, **rest):
        if where().layer == 3 and where().role == "moe.gate_up":
            expert_offsets = expert_offsets.clone()
            expert_offsets[5] = torch.minimum(expert_offsets[5] + 1, expert_offsets[6])
        return op(*given, expert_offsets=expert_offsets, **rest)

    return gemm


def neighbour_expert(op):
    """The weight pointer of expert 6 starts at expert 7."""

    def gemm(x, weight, **rest):
        if where().layer == 1 and where().role == "moe.down":
            weight = weight.clone()
            weight[6] = weight[7]
        return op(x, weight, **rest)

    return gemm


def down_one_percent(op):
    def gemm(x_q, x_s, weight, weight_scale, **rest):
        if where().layer == 2 and where().role == "moe.down":
            weight_scale = weight_scale.clone()
            weight_scale[8] *= 1.01
        return op(x_q, x_s, weight, weight_scale, **rest)

    return gemm


def act_scales_of_neighbour(op):
    def gemm(x_q, x_s, weight, weight_scale, **rest):
        if where().layer == 3 and where().role == "moe.gate_up":
            x_s = torch.roll(x_s, 1, 0)
        return op(x_q, x_s, weight, weight_scale, **rest)

    return gemm


def act_rows_stale(op):
    def act(gate_up, *, out=None, **rest):
        if where().layer != 0 or out is None or len(gate_up) < 6:
            return op(gate_up, out=out, **rest)
        op(gate_up[:-5], out=out[:-5], **rest)
        return out

    return act


def second_choice_third(op):
    def route(x, weight, *, top_k, **rest):
        if where().layer != 3:
            return op(x, weight, top_k=top_k, **rest)
        ids, weights = op(x, weight, top_k=top_k + 1, **rest)
        pick = [*range(top_k - 1), top_k]
        chosen = weights[:, pick]
        return ids[:, pick].contiguous(), (chosen / chosen.sum(1, keepdim=True)).contiguous()

    return route


def router_expert_small(op):
    def route(x, weight, **rest):
        if where().layer == 2:
            weight = weight.clone()
            weight[9] *= 0.9
        return op(x, weight, **rest)

    return route


def not_renormalized(op):
    def route(*given, renormalize, **rest):
        return op(*given, renormalize=renormalize and where().layer != 1, **rest)

    return route


def tile_end_loses_slot(op):
    def bring(down, slot_row, weights, **rest):
        if where().layer == 1:
            weights = weights.clone()
            weights[63::64, 1] = 0
        return op(down, slot_row, weights, **rest)

    return bring


def rolled(name, tensor):
    if tensor.element_size() == 1:
        return torch.roll(tensor.view(torch.uint8), 1, 0).view(tensor.dtype)
    return torch.roll(tensor, 1, 0)


def swapped(op):
    def act(gate_up, **rest):
        if where().layer == 2:
            gate_up = gate_up.flip(1).contiguous()
        return op(gate_up, **rest)

    return act


FAULTS = [
    Fault(
        name="up_tail_unwritten",
        family=F,
        summary="The last partial column tile of gate/up is not computed.",
        truth=Site((2,), "moe.up", Slice(columns=(96, 160))),
        cause="one segment of columns is wrong",
        op="grouped_gemm_fp8",
        wrap=up_tail_unwritten,
        needs=FP8,
    ),
    Fault(
        name="grid_without_last_expert",
        family=F,
        summary="The grid's expert axis is one too short.",
        truth=Site((), "moe.gate", Slice(experts=(11,))),
        also=(Site((), "moe.up", Slice(experts=(11,))), Site((), "moe.down", Slice(experts=(11,)))),
        cause="rows were never written",
        engine={"zeroed_arena": True},
        launch={"grouped_gemm": grid_without_last_expert},
        needs=FP8,
    ),
    Fault(
        name="offset_off_by_one",
        family=F,
        summary="The first row of expert 5 is computed with expert 4.",
        truth=Site((3,), "moe.gate", Slice(experts=(5,))),
        also=(Site((3,), "moe.up", Slice(experts=(5,))),),
        cause="reads a wrong buffer",
        op="grouped_gemm_bf16",
        wrap=offset_off_by_one,
        needs=BF16,
    ),
    Fault(
        name="neighbour_expert",
        family=F,
        summary="Expert 6's down projection is read from expert 7's place.",
        truth=Site((1,), "moe.down", Slice(experts=(6,))),
        cause="reads a wrong buffer",
        op="grouped_gemm_bf16",
        wrap=neighbour_expert,
        needs=BF16,
    ),
    Fault(
        name="down_of_one_expert",
        family=F,
        summary="The down projection of expert 8 is 1 % too large.",
        truth=Site((2,), "moe.down", Slice(experts=(8,))),
        cause="constant ratio",
        op="grouped_gemm_fp8",
        wrap=down_one_percent,
        needs=FP8,
        details={"ratio": 1.01},
    ),
    Fault(
        name="act_scales_of_neighbour",
        family=F,
        summary="Row scales of the experts' input belong to the row before.",
        truth=Site((3,), "moe.gate"),
        also=(Site((3,), "moe.up"),),
        cause="a factor of its own for each row",
        op="grouped_gemm_fp8",
        wrap=act_scales_of_neighbour,
        needs=FP8,
    ),
    Fault(
        name="act_rows_stale",
        family=F,
        summary="The last five expert rows of silu are skipped in a reused buffer.",
        truth=Site((0,), "moe.act"),
        cause="rows hold stale memory",
        op="silu_mul",
        wrap=act_rows_stale,
        engine={"zeroed_arena": False},
        needs=BF16,
    ),
    Fault(
        name="second_choice_third",
        family=F,
        summary="The last chosen expert is the one after the right one.",
        truth=Site((3,), "moe.topk_ids"),
        cause="expert ids that the logits do not give",
        op="router",
        wrap=second_choice_third,
        needs=FP8,
    ),
    Fault(
        name="router_expert_small",
        family=F,
        summary="Expert 9's router logit is 10 % too small.",
        truth=Site((2,), "moe.router_logits", Slice(experts=(9,))),
        cause="constant ratio",
        op="router",
        wrap=router_expert_small,
        needs=BF16,
        details={"ratio": 0.9},
    ),
    Fault(
        name="not_renormalized_one_layer",
        family=F,
        summary="Layer 1 does not renormalize its routing weights.",
        truth=Site((1,), "moe.topk_weights"),
        cause="routing weights not renormalized",
        op="router",
        wrap=not_renormalized,
        needs=BF16,
    ),
    Fault(
        name="tile_end_loses_slot",
        family=F,
        summary="Each 64th token loses its second expert.",
        truth=Site((1,), "moe.experts"),
        cause="a routed expert's part is not added",
        op="combine",
        wrap=tile_end_loses_slot,
        needs=FP8,
    ),
    Fault(
        name="up_rows_rolled",
        family=F,
        summary="Expert 7's up projection is laid out one row late.",
        truth=Site((0,), "moe.up", Slice(experts=(7,))),
        cause="columns are permuted",
        weights={"model.layers.0.mlp.experts.7.up_proj.weight": rolled},
        needs=FP8,
    ),
    Fault(
        name="gate_up_swapped",
        family=F,
        summary="silu is applied to up in layer 2.",
        truth=Site((2,), "moe.act"),
        cause="gate and up swapped",
        op="silu_mul",
        wrap=swapped,
        needs=BF16,
    ),
]
