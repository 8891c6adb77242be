"""Faults of attention that are not among the shipped ones: one layer, one head, one phase, one cache each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from parity.faults import Fault, where
from parity.fingerprint import causes
from parity.records import Site, Slice

Op = Callable[..., Any]
PREFILL, DECODE = "attention_prefill", "attention_decode"


def in_layer(layer: int, changed: Callable[..., Any]) -> Callable[[Op], Op]:
    """A wrap: `changed(op, *operands, **rest)` in that layer, the op itself elsewhere."""

    def wrap(op: Op) -> Op:
        return lambda *args, **rest: changed(op, *args, **rest) if where().layer == layer else op(*args, **rest)

    return wrap


def planted(
    name: str, layer: int, cause: str, summary: str, heads: tuple[int, ...] | None = None, **what: Any
) -> Fault:
    site = Site((layer,), "attn.context", Slice(heads=heads))
    return Fault(name=name, family="qwen3_moe", summary=summary, truth=site, cause=cause, **what)


def too_sharp(op: Op, *args: Any, scale: float, **rest: Any) -> Any:
    return op(*args, scale=scale * 2**0.5, **rest)


def head_scaled(op: Op, *args: Any, **rest: Any) -> Any:
    out = op(*args, **rest)
    out[:, 5] *= 1.03
    return out


def heads_exchanged(op: Op, *args: Any, **rest: Any) -> Any:
    out = op(*args, **rest)
    out[:, [1, 4]] = out[:, [4, 1]]
    return out


def some_rows_nan(op: Op, *args: Any, **rest: Any) -> Any:
    out = op(*args, **rest)
    out[177:180, 2] = float("nan")
    return out


def sees_one_less(op: Op, *args: Any, first_position: torch.Tensor, **rest: Any) -> Any:
    return op(*args, first_position=(first_position - 1).clamp(min=0), **rest)


def newest_keys_unread(op: Op, *args: Any, positions: torch.Tensor, **rest: Any) -> Any:
    return op(*args, positions=(positions - 3).clamp(min=0), **rest)


def values_aliased(op: Op, k: torch.Tensor, v: torch.Tensor, *rest: Any, **named: Any) -> Any:
    return op(k, v[:, :1].expand_as(v).contiguous(), *rest, **named)


def stored_as_e4m3(op: Op) -> Op:
    def kv_write(k: torch.Tensor, v: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return op(*(t.to(torch.float8_e4m3fn).to(t.dtype) for t in (k, v)), *rest, **named)

    return kv_write


def a_decoded_key_head_zero(op: Op, *args: Any, **rest: Any) -> Any:
    q, k = op(*args, **rest)
    if where().phase == "decode":
        k[:, 1] = 0
    return q, k


FAULTS = [
    planted("softmax_scale_in_one_layer", 3, causes.SOFTMAX_SCALE, "The scores are sqrt(2) times too large.",
            op=(PREFILL, DECODE), wrap=in_layer(3, too_sharp)),
    planted("head_a_little_large", 1, causes.CONSTANT_RATIO, "One head comes out 3 % too large.",
            heads=(5,), op=PREFILL, wrap=in_layer(1, head_scaled)),
    planted("two_heads_exchanged", 0, causes.HEADS_PERMUTED, "Two heads stand in each other's place.",
            heads=(1, 4), op=PREFILL, wrap=in_layer(0, heads_exchanged)),
    planted("three_rows_nan", 2, causes.NONFINITE, "Three rows of one head are NaN.",
            heads=(2,), op=PREFILL, wrap=in_layer(2, some_rows_nan)),
    planted("mask_short_by_one_from_chunk_two", 2, causes.ATTENTION_REACH, "From chunk 1 on a row does not see itself.",
            op=PREFILL, wrap=in_layer(2, sees_one_less)),
    planted("decode_misses_the_newest", 1, causes.ATTENTION_REACH, "Decode does not read the newest three keys.",
            op=DECODE, wrap=in_layer(1, newest_keys_unread)),
    planted("values_of_one_head_for_all", 3, causes.HEADS_ALIASED, "Every head's values are the first head's.",
            op="kv_write", wrap=in_layer(3, values_aliased)),
    Fault(name="cache_in_e4m3", family="qwen3_moe", summary="Keys and values are stored in E4M3 without a scale.",
          truth=Site((), "attn.context"), cause=causes.E4M3_GRID, op="kv_write", wrap=stored_as_e4m3),
    Fault(name="key_head_zero_in_decode", family="qwen3_moe", summary="In decode one key head is zero.",
          truth=Site((2,), "attn.k_rope"), cause=causes.PHASE_ONLY, op="qk_norm_rope",
          wrap=in_layer(2, a_decoded_key_head_zero)),
]  # fmt: skip
