"""Unseen controls: other orders, tiles, grids, splits, padding and recomputation that a healthy engine may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from parity.faults import Fault, where
from parity_kernels.attention.launch import attention_decode_launch, attention_prefill_launch
from parity_kernels.combine.launch import combine_launch
from parity_kernels.embed.launch import embed_launch
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch
from parity_kernels.kv_write.launch import kv_write_launch
from parity_kernels.launch import Launch, ceil_div
from parity_kernels.linear.launch import linear_launch


def split_keys(op: Any) -> Any:
    """Attention in splits of 192 keys, each with its own maximum, merged by exp(own - common)."""

    def attention(q: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor, **rest: Any) -> torch.Tensor:
        decode = "positions" in rest
        given = rest.get("out")
        out = torch.empty_like(q) if given is None else given
        first = rest["positions" if decode else "first_position"].tolist()
        starts = list(range(len(first) + 1)) if decode else rest["row_start"].tolist()
        for number, slot in enumerate(rest["slots"].tolist()):
            rows = slice(starts[number], starts[number + 1])
            end = first[number] + starts[number + 1] - starts[number]
            out[rows] = _merged(q[rows], cache_k[slot, :end], cache_v[slot, :end], first[number], rest["scale"])
        return out

    return attention


def _merged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int, scale: float) -> torch.Tensor:
    group = q.shape[1] // k.shape[1]
    keys, values = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
    own = torch.arange(first, first + len(q), device=q.device)[:, None, None]
    parts = []
    for start in range(0, len(k), 192):
        stop = min(start + 192, len(k))
        scores = torch.einsum("nhk,lhk->nhl", q.float(), keys[start:stop]) * scale
        scores = scores.masked_fill(torch.arange(start, stop, device=q.device) > own, float("-inf"))
        largest = scores.amax(-1, keepdim=True).clamp(min=-1e30)
        share = torch.exp(scores - largest)
        weighted = torch.einsum("nhl,lhk->nhk", share.to(q.dtype).float(), values[start:stop])
        parts.append((largest, share.sum(-1, keepdim=True), weighted))
    common = torch.stack([largest for largest, _, _ in parts]).amax(0)
    factors = [torch.exp(largest - common) for largest, _, _ in parts]
    total = torch.stack([f * mass for f, (_, mass, _) in zip(factors, parts, strict=True)]).sum(0)
    weighted = torch.stack([f * part for f, (_, _, part) in zip(factors, parts, strict=True)]).sum(0)
    return (weighted / total).to(q.dtype)


def small_grouped(**extents: Any) -> Launch:
    made = grouped_gemm_launch(**extents)
    rows, columns = 32, 64
    grid = (ceil_div(extents["n_tokens"], rows), ceil_div(extents["n_cols"] * extents["n_parts"], columns))
    return replace(
        made,
        op=f"fused_moe_{extents['op']}",
        grid=(*grid, extents["n_experts"]),
        block={**made.block, "m": rows, "n": columns},
        covers={"rows_per_expert": grid[0] * rows},
    )


def wide_linear(**extents: Any) -> Launch:
    made = linear_launch(**extents)
    rows, columns = 128, 64
    grid = (ceil_div(extents["n_rows"], rows), ceil_div(extents["n_cols"], columns))
    return replace(
        made,
        grid=grid,
        block={**made.block, "m": rows, "n": columns},
        covers={"rows": grid[0] * rows, "cols": grid[1] * columns},
    )


def keys_by_32(healthy: Any) -> Any:
    def launch(**extents: Any) -> Launch:
        made = healthy(**extents)
        return replace(made, block={**made.block, "n": 32})

    return launch


def one_more(healthy: Any, block: str, extent: str) -> Any:
    """A grid with one program more than is needed along its first axis, as for a batch padded to a bucket."""

    def launch(**extents: Any) -> Launch:
        made = healthy(**extents)
        covers = {**made.covers, extent: made.covers[extent] + made.block[block]}
        return replace(made, op=f"bucketed_{made.op}", grid=(made.grid[0] + 1, *made.grid[1:]), covers=covers)

    return launch


def experts_in_double(op: Any) -> Any:
    """The weighted sum over a token's experts in FP64, last slot first, rounded once."""

    def combine(down: torch.Tensor, slot_row: torch.Tensor, weights: torch.Tensor, *, out: Any = None, **rest: Any):
        total = torch.zeros((len(slot_row), down.shape[1]), dtype=torch.float64, device=down.device)
        for slot in reversed(range(slot_row.shape[1])):
            total += weights[:, slot, None].double() * down[slot_row[:, slot].long()].double()
        return total.to(down.dtype) if out is None else out.copy_(total)

    return combine


def depth_in_thirds(op: Any) -> Any:
    """The head's contraction in three parts, added from the last to the first in FP32 (split-K)."""

    def linear(x: torch.Tensor, weight: torch.Tensor, **rest: Any) -> torch.Tensor:
        if where().role != "logits":
            return op(x, weight, **rest)
        out = rest.pop("out", None)
        parts = zip(x.chunk(3, 1), weight.chunk(3, 1), strict=True)
        total = torch.stack([op(a, b, **rest) for a, b in reversed(list(parts))]).sum(0)
        return total if out is None else out.copy_(total)

    return linear


def router_by_blocks(op: Any) -> Any:
    """Router logits summed over blocks of 96 columns in FP32, softmax over the chosen two only: the same weights."""

    def router(
        x: torch.Tensor, weight: torch.Tensor, *, top_k: int, renormalize: bool, logits_out: Any = None, **rest: Any
    ) -> Any:
        if not renormalize:
            return op(x, weight, top_k=top_k, renormalize=renormalize, logits_out=logits_out, **rest)
        parts = zip(x.float().split(96, 1), weight.float().split(96, 1), strict=True)
        logits = torch.stack([a @ b.T for a, b in parts]).sum(0)
        if logits_out is not None:
            logits_out.copy_(logits)
        chosen, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
        return ids[:, :top_k].int().contiguous(), chosen[:, :top_k].softmax(-1).contiguous()

    return router


def padded_rows(op: Any) -> Any:
    """The batch is padded to a multiple of 64 rows of other content; what it computes for them is thrown away."""

    def linear(q: torch.Tensor, s: torch.Tensor, weight: Any, scale: Any, *, out: Any = None, **rest: Any) -> Any:
        rows = len(q)
        fill = [row % rows for row in range(rows, 64 * ceil_div(rows, 64))]
        index = torch.tensor([*range(rows), *fill], device=q.device)
        wide = op(q.view(torch.uint8)[index].view(q.dtype), s[index], weight, scale, **rest)[:rows]
        return wide.contiguous() if out is None else out.copy_(wide)

    return linear


def norm_in_double(op: Any) -> Any:
    """Sum and RMSNorm in FP64, rounded at the same two places."""

    def norm(
        x: torch.Tensor, residual: Any, weight: torch.Tensor, *, eps: float, out: Any = None, out_sum: Any = None,
        **rest: Any,
    ) -> Any:  # fmt: skip
        summed = x if residual is None else (x.double() + residual.double()).to(x.dtype)
        exact = summed.double()
        normed = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps) * weight.double()
        normed = normed.to(x.dtype) if out is None else out.copy_(normed)
        return normed, summed if residual is None or out_sum is None else out_sum.copy_(summed)

    return norm


def twice(op: Any) -> Any:
    """Recomputation: the activation is computed, thrown away, and computed again into buffers of its own."""

    def act(gate_up: torch.Tensor, **rest: Any) -> Any:
        op(gate_up.clone())
        return op(gate_up.clone(), **{name: x for name, x in rest.items() if name == "act_out"})

    return act


def control(name: str, summary: str, **change: Any) -> Fault:
    return Fault(name=f"control_{name}", family="qwen3_moe", summary=summary, control=True, **change)


FAULTS = [
    control(
        "keys_in_splits",
        "Attention takes keys 192 at a time, each split with its own maximum, and merges them right.",
        op=("attention_prefill", "attention_decode"),
        wrap=split_keys,
    ),
    control(
        "other_tiles",
        "Grouped GEMMs in tiles of 32 x 64, linears of 128 x 64, under other kernel names.",
        launch={"grouped_gemm": small_grouped, "linear": wide_linear},
    ),
    control(
        "keys_by_32",
        "The online softmax takes 32 keys at a step: P is rounded at other running maxima.",
        launch={
            "attention_prefill": keys_by_32(attention_prefill_launch),
            "attention_decode": keys_by_32(attention_decode_launch),
        },
    ),
    control(
        "bucketed_grids",
        "Grids with a program more than is needed, as for a batch padded to a bucket.",
        launch={
            "embed": one_more(embed_launch, "m", "tokens"),
            "kv_write": one_more(kv_write_launch, "t", "rows"),
            "combine": one_more(combine_launch, "t", "tokens"),
        },
    ),
    control(
        "experts_in_double",
        "A token's experts are added in FP64, last slot first.",
        op="combine",
        wrap=experts_in_double,
    ),
    control("head_split_k", "The LM head sums its depth in three parts.", op="linear_bf16", wrap=depth_in_thirds),
    control(
        "router_softmax_of_chosen",
        "Router logits are summed by blocks; softmax over the chosen experts equals renormalized softmax over all.",
        op="router",
        wrap=router_by_blocks,
    ),
    control(
        "padded_batch",
        "Linears run on a batch padded to 64 rows with copies of its rows.",
        needs={"recipe": "fp8_block"},
        op="linear_fp8",
        wrap=padded_rows,
    ),
    control(
        "norm_in_double",
        "Norms are computed in FP64 between the same roundings.",
        op="add_rmsnorm",
        wrap=norm_in_double,
    ),
    control(
        "activation_recomputed",
        "The activation is computed twice, the second time into buffers that are not the engine's.",
        op=("silu_mul_quant", "silu_mul"),
        wrap=twice,
    ),
]
