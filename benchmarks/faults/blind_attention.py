"""Defects of attention, its cache, its heads and positions."""

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice

FP8, BF16 = {"recipe": "fp8_block"}, {"recipe": "bf16"}
F = "qwen3_moe"


def decode_slot_behind(op):
    def write(k, v, cache_k, cache_v, slots, positions, **rest):
        if where().phase == "decode" and where().layer == 1:
            positions = (positions - 1).clamp(min=0)
        return op(k, v, cache_k, cache_v, slots, positions, **rest)

    return write


def later_chunk_self_masked(op):
    def attend(q, cache_k, cache_v, *, first_position, **rest):
        if where().chunk >= 1 and where().layer == 2:
            first_position = (first_position - 1).clamp(min=0)
        return op(q, cache_k, cache_v, first_position=first_position, **rest)

    return attend


def mask_sees_next(op):
    """Off by one in the causal mask: every row but the last sees one key too many."""

    def attend(
        q, cache_k, cache_v, *, row_start, slots, first_position, max_rows, max_context, scale, out=None, **rest
    ):
        if where().layer != 3 or row_start.numel() != 2 or q.shape[0] < 2:
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
        last = op(
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
        keep = last[-1].clone()
        shorter = row_start.clone()
        shorter[1] -= 1
        made = op(
            q[:-1],
            cache_k,
            cache_v,
            row_start=shorter,
            slots=slots,
            first_position=first_position + 1,
            max_rows=max_rows - 1,
            max_context=max_context,
            scale=scale,
            out=last[:-1],
            **rest,
        )
        last[:-1].copy_(made)
        last[-1].copy_(keep)
        return last

    return attend


def one_head_sharp(op):
    def attend(q, *caches, **rest):
        if where().layer == 3:
            q = q.clone()
            q[:, 4] *= 2**0.5
        return op(q, *caches, **rest)

    return attend


def gqa_modulo(op):
    order = [0, 2, 4, 1, 3, 5]

    def attend(q, *caches, out=None, **rest):
        if where().layer != 0:
            return op(q, *caches, out=out, **rest)
        made = op(q[:, order].contiguous(), *caches, **rest)
        right = torch.empty_like(made)
        right[:, order] = made
        if out is None:
            return right
        out.copy_(right)
        return out

    return attend


def decode_partial_tile(op):
    """Decode walks whole tiles of 16 keys only; the partial one at the end is dropped."""

    def attend(q, cache_k, cache_v, *, positions, **rest):
        if where().layer == 0:
            seen = positions + 1
            positions = torch.where(seen >= 16, seen // 16 * 16 - 1, positions)
        return op(q, cache_k, cache_v, positions=positions, **rest)

    return attend


def v_in_e4m3(op):
    def write(k, v, *rest, **named):
        if where().layer == 2:
            v = v.to(torch.float8_e4m3fn).to(v.dtype)
        return op(k, v, *rest, **named)

    return write


def rope_interleaved(op):
    def rotate(
        q,
        k,
        q_weight,
        k_weight,
        positions,
        inv_freq,
        *,
        q_norm_out=None,
        k_norm_out=None,
        out_q=None,
        out_k=None,
        **rest,
    ):
        if where().layer != 1:
            return op(
                q,
                k,
                q_weight,
                k_weight,
                positions,
                inv_freq,
                q_norm_out=q_norm_out,
                k_norm_out=k_norm_out,
                out_q=out_q,
                out_k=out_k,
                **rest,
            )
        size = q.shape[-1]
        order = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)]).to(q.device)
        normed = [None if o is None else torch.empty_like(o) for o in (q_norm_out, k_norm_out)]
        made = op(
            q[..., order].contiguous(),
            k[..., order].contiguous(),
            q_weight[order].contiguous(),
            k_weight[order].contiguous(),
            positions,
            inv_freq,
            q_norm_out=normed[0],
            k_norm_out=normed[1],
            **rest,
        )
        results = []
        for source, out in ((made[0], out_q), (made[1], out_k), (normed[0], q_norm_out), (normed[1], k_norm_out)):
            if source is None:
                continue
            right = torch.empty_like(source)
            right[..., order] = source
            if out is not None:
                out.copy_(right)
                right = out
            results.append(right)
        return results[0], results[1]

    return rotate


def decode_rope_behind(op):
    def rotate(q, k, q_weight, k_weight, positions, inv_freq, **rest):
        if where().phase == "decode":
            positions = positions - 1
        return op(q, k, q_weight, k_weight, positions, inv_freq, **rest)

    return rotate


def last_pair_unrotated(op):
    def rotate(q, k, q_weight, k_weight, positions, inv_freq, **rest):
        if where().layer == 2:
            inv_freq = inv_freq.clone()
            inv_freq[1] = 0.0
        return op(q, k, q_weight, k_weight, positions, inv_freq, **rest)

    return rotate


def attn_v_small(op):
    def linear(*given, **rest):
        out = op(*given, **rest)
        if where().layer == 0 and where().role == "attn.v":
            out *= 0.98
        return out

    return linear


def k_saturated(op):
    def linear(*given, **rest):
        out = op(*given, **rest)
        if where().layer == 3 and where().role == "attn.k":
            out.clamp_(-1.5, 1.5)
        return out

    return linear


FAULTS = [
    Fault(
        name="decode_slot_behind",
        family=F,
        summary="Decode steps write keys and values one position early.",
        truth=Site((1,), "attn.context"),
        cause="wrong cache slots",
        op="kv_write",
        wrap=decode_slot_behind,
        needs=FP8,
    ),
    Fault(
        name="later_chunk_self_masked",
        family=F,
        summary="From the second chunk on a row does not see itself.",
        truth=Site((2,), "attn.context"),
        cause="attention sees only part of the keys",
        op="attention_prefill",
        wrap=later_chunk_self_masked,
        needs=BF16,
    ),
    Fault(
        name="mask_sees_next",
        family=F,
        summary="The causal mask lets every row see the next key.",
        truth=Site((3,), "attn.context"),
        cause="attention sees only part of the keys",
        op="attention_prefill",
        wrap=mask_sees_next,
        needs=FP8,
    ),
    Fault(
        name="one_head_sharp",
        family=F,
        summary="Scores of head 4 are sqrt(2) too large.",
        truth=Site((3,), "attn.context", Slice(heads=(4,))),
        cause="another softmax scale",
        op=("attention_prefill", "attention_decode"),
        wrap=one_head_sharp,
        needs=FP8,
    ),
    Fault(
        name="gqa_modulo",
        family=F,
        summary="Query head h reads key/value head h % 2 instead of h // 3.",
        truth=Site((0,), "attn.context", Slice(heads=(1, 4))),
        cause="heads permuted",
        op=("attention_prefill", "attention_decode"),
        wrap=gqa_modulo,
        needs=BF16,
    ),
    Fault(
        name="decode_partial_tile",
        family=F,
        summary="Decode drops the last partial tile of keys.",
        truth=Site((0,), "attn.context"),
        cause="attention sees only part of the keys",
        op="attention_decode",
        wrap=decode_partial_tile,
        needs=BF16,
    ),
    Fault(
        name="v_in_e4m3",
        family=F,
        summary="Values go through E4M3 without a scale on the way into the cache.",
        truth=Site((2,), "attn.context"),
        cause="values on the E4M3 grid",
        op="kv_write",
        wrap=v_in_e4m3,
        needs=BF16,
    ),
    Fault(
        name="rope_interleaved",
        family=F,
        summary="Rope rotates neighbouring dims in place of halves.",
        truth=Site((1,), "attn.q_rope"),
        also=(Site((1,), "attn.k_rope"),),
        cause="rope pairs paired otherwise",
        op="qk_norm_rope",
        wrap=rope_interleaved,
        needs=FP8,
    ),
    Fault(
        name="decode_rope_behind",
        family=F,
        summary="In decode positions are counted from one too few.",
        truth=Site((), "attn.q_rope"),
        also=(Site((), "attn.k_rope"),),
        cause="rope position off by a constant",
        op="qk_norm_rope",
        wrap=decode_rope_behind,
        needs=FP8,
    ),
    Fault(
        name="one_pair_unrotated",
        family=F,
        summary="The second frequency pair is not rotated.",
        truth=Site((2,), "attn.q_rope"),
        also=(Site((2,), "attn.k_rope"),),
        cause="rope scaling of some frequency pairs",
        op="qk_norm_rope",
        wrap=last_pair_unrotated,
        needs=BF16,
    ),
    Fault(
        name="attn_v_small",
        family=F,
        summary="The value projection of layer 0 is 2 % too small.",
        truth=Site((0,), "attn.v"),
        cause="constant ratio",
        op="linear_bf16",
        wrap=attn_v_small,
        needs=BF16,
        details={"ratio": 0.98},
    ),
    Fault(
        name="k_saturated",
        family=F,
        summary="The key projection is clipped to +-1.5.",
        truth=Site((3,), "attn.k"),
        cause="saturated at one extreme value",
        op="linear_fp8",
        wrap=k_saturated,
        needs=FP8,
    ),
]
