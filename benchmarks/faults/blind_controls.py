"""Differences that are no bug: another valid order, another valid grid, the same numbers in another shape."""

import dataclasses

import torch

from parity.faults import Fault
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch

FP8, BF16 = {"recipe": "fp8_block"}, {"recipe": "bf16"}
F = "qwen3_moe"


def in_two_calls(op):
    """Rows of one request in two launches: a valid chunking inside a step."""

    def attend(
        q, cache_k, cache_v, *, row_start, slots, first_position, max_rows, max_context, scale, out=None, **rest
    ):
        rows = q.shape[0]
        if row_start.numel() != 2 or rows < 2:
            return op(
                q,
                cache_k,
                cache_v,
                row_start=row_start,
                slots=slots,
                first_position=first_position,
                max_rows=max_rows,
                max_context=max_context,
                scale=scale,
                out=out,
                **rest,
            )
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
        cut = rows * 3 // 7 or 1
        for start, stop in ((0, cut), (cut, rows)):
            offsets = torch.tensor([0, stop - start], dtype=torch.int32, device=q.device)
            op(
                q[start:stop],
                cache_k,
                cache_v,
                row_start=offsets,
                slots=slots,
                first_position=first_position + start,
                max_rows=stop - start,
                max_context=max_context,
                scale=scale,
                out=out[start:stop],
                **rest,
            )
        return out

    return attend


def attention_exact(op):
    """One softmax over all keys in FP32 instead of an online one."""

    def attend(
        q, cache_k, cache_v, *, row_start, slots, first_position, max_rows, max_context, scale, out=None, **rest
    ):
        made = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
        group = q.shape[1] // cache_k.shape[2]
        for b in range(len(slots)):
            start, stop = int(row_start[b]), int(row_start[b + 1])
            first, slot = int(first_position[b]), int(slots[b])
            keys = first + stop - start
            k = cache_k[slot, :keys].float().repeat_interleave(group, 1)
            v = cache_v[slot, :keys].float().repeat_interleave(group, 1)
            scores = torch.einsum("thk,shk->hts", q[start:stop].float(), k) * scale
            mask = torch.arange(keys, device=q.device)[None] > torch.arange(first, keys, device=q.device)[:, None]
            scores.masked_fill_(mask, float("-inf"))
            made[start:stop] = torch.einsum("hts,shk->thk", scores.softmax(-1), v).to(q.dtype)
        return made

    return attend


def combine_backwards(op):
    def bring(down, slot_row, weights, **rest):
        return op(down, slot_row.flip(1).contiguous(), weights.flip(1).contiguous(), **rest)

    return bring


def roomy_grid(**extents):
    made = grouped_gemm_launch(**extents)
    tiles, columns, experts = made.grid
    return dataclasses.replace(
        made, grid=(tiles + 3, columns, experts), covers={"rows_per_expert": (tiles + 3) * made.block["m"]}
    )


def scale_elsewhere(op):
    def linear(q, s, weight, weight_scale, **rest):
        return op(q, s * 4, weight, weight_scale / 4, **rest)

    return linear


def round_before_weight(op):
    """As Hugging Face does: rounded to bf16 before the weight is applied, and after."""

    def add(x, residual, weight, *, eps, out=None, out_sum=None, **rest):
        ones = torch.ones_like(weight)
        normed, summed = op(x, residual, ones, eps=eps, out=out, out_sum=out_sum, **rest)
        normed.mul_(weight)
        return normed, summed

    return add


def silu_by_tanh(op):
    def act(gate_up, *, out=None, **rest):
        gate, up = gate_up[:, 0].float(), gate_up[:, 1].float()
        made = (0.5 * gate * (1 + torch.tanh(0.5 * gate)) * up).to(gate_up.dtype)
        if out is None:
            return made
        out.copy_(made)
        return out

    return act


FAULTS = [
    Fault(
        name="ok_in_two_calls",
        family=F,
        summary="Prefill attention runs in two launches of rows.",
        control=True,
        op="attention_prefill",
        wrap=in_two_calls,
        needs=FP8,
    ),
    Fault(
        name="ok_attention_exact",
        family=F,
        summary="Prefill attention with one FP32 softmax.",
        control=True,
        op="attention_prefill",
        wrap=attention_exact,
        needs=BF16,
    ),
    Fault(
        name="ok_combine_backwards",
        family=F,
        summary="Slots are added in reverse order.",
        control=True,
        op="combine",
        wrap=combine_backwards,
        needs=BF16,
    ),
    Fault(
        name="ok_roomy_grid",
        family=F,
        summary="The grouped GEMM's grid is three tiles larger than needed.",
        control=True,
        launch={"grouped_gemm": roomy_grid},
        needs=FP8,
    ),
    Fault(
        name="ok_scale_elsewhere",
        family=F,
        summary="A power of two is moved from one scale to the other.",
        control=True,
        op="linear_fp8",
        wrap=scale_elsewhere,
        needs=FP8,
    ),
    Fault(
        name="ok_round_before_weight",
        family=F,
        summary="RMSNorm rounds before its weight, as Hugging Face does.",
        control=True,
        op="add_rmsnorm",
        wrap=round_before_weight,
        needs=BF16,
    ),
    Fault(
        name="ok_silu_by_tanh",
        family=F,
        summary="silu by tanh.",
        control=True,
        op="silu_mul",
        wrap=silu_by_tanh,
        needs=BF16,
    ),
]
