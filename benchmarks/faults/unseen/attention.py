"""Unseen faults of attention: mask, window, head groups, scale and merge of a split, each in a kernel of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice

Merge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
END = 1 << 20


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor, scale: float, split: int = 1 << 30
) -> torch.Tensor:
    """Attention of one request in FP32, P rounded to q's dtype: q [N, H, K], k and v [L, G, K], visible [N, L].

    Keys are taken `split` at a time, and the partial sums are added as if each split had the same largest score.
    """
    group = q.shape[1] // k.shape[1]
    keys, values = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("nhk,lhk->nhl", q.float(), keys) * scale
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    weighted, total = torch.zeros_like(q, dtype=torch.float32), torch.zeros_like(scores[..., :1])
    for start in range(0, k.shape[0], split):
        part = scores[..., start : start + split]
        share = torch.exp(part - part.amax(-1, keepdim=True).clamp(min=-1e30))
        weighted = weighted + torch.einsum("nhl,lhk->nhk", share.to(q.dtype).float(), values[start : start + split])
        total = total + share.sum(-1, keepdim=True)
    return weighted / total


def over_requests(
    q: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor, rest: dict[str, Any],
    sees: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], split: int = 1 << 30,
) -> torch.Tensor:  # fmt: skip
    """Both attention ops by `attend`; sees(own [N, 1], key [1, L]) -> bool [N, L] is the mask."""
    decode = "positions" in rest
    given = rest.get("out")
    out = torch.empty_like(q) if given is None else given
    first = rest["positions" if decode else "first_position"].tolist()
    starts = range(len(first) + 1) if decode else rest["row_start"].tolist()
    for number, slot in enumerate(rest["slots"].tolist()):
        rows = slice(starts[number], starts[number + 1])
        count = starts[number + 1] - starts[number]
        end = first[number] + count
        own = torch.arange(first[number], end, device=q.device)[:, None]
        key = torch.arange(end, device=q.device)[None]
        k, v = cache_k[slot, :end], cache_v[slot, :end]
        out[rows] = attend(q[rows], k, v, sees(own, key), rest["scale"], split).to(q.dtype)
    return out


def masked(layer: int, sees: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """Wrap of both attention ops: another mask in one layer."""

    def wrap(op: Any) -> Any:
        def attention(q: Any, cache_k: Any, cache_v: Any, **rest: Any) -> torch.Tensor:
            if where().layer != layer:
                return op(q, cache_k, cache_v, **rest)
            return over_requests(q, cache_k, cache_v, rest, sees)

        return attention

    return wrap


def before_itself(own: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (key < own) | (key == 0)


def last_320(own: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (key <= own) & (key > own - 320)


def modulo_groups(op: Any) -> Any:
    """Query head h reads kv head h % G instead of h // (H / G)."""

    def attention(q: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor, *, out: Any, **rest: Any) -> Any:
        heads, kv_heads = q.shape[1], cache_k.shape[2]
        order = sorted(range(heads), key=lambda head: (head % kv_heads, head))
        mixed = op(q[:, order].contiguous(), cache_k, cache_v, **rest)
        out = torch.empty_like(q) if out is None else out
        out[:, order] = mixed
        return out

    return attention


def twice_log2e(op: Any) -> Any:
    """The scale already holds log2(e), and the kernel uses exp."""

    def attention(*args: Any, scale: float, **rest: Any) -> torch.Tensor:
        return op(*args, scale=scale * 1.4427, **rest)

    return attention


def unweighted_merge(op: Any) -> Any:
    """Splits of 256 keys are merged without the factor exp(own maximum - common maximum)."""

    def attention(q: Any, cache_k: Any, cache_v: Any, **rest: Any) -> torch.Tensor:
        return over_requests(q, cache_k, cache_v, rest, lambda own, key: key <= own, split=256)

    return attention


BOTH = ("attention_prefill", "attention_decode")

FAULTS = [
    Fault(
        name="attn_own_key_hidden",
        family="qwen3_moe",
        summary="In layer 3 the mask is `<` where it is `<=`: no query but the first sees its own key.",
        truth=Site((3,), "attn.context"),
        cause="attention sees only part of the keys",
        op=BOTH,
        wrap=masked(3, before_itself),
    ),
    Fault(
        name="attn_window_on_full_layer",
        family="qwen3_moe",
        summary="Layer 0 attends to the last 320 keys only, a window that the config has switched off.",
        truth=Site((0,), "attn.context", Slice(positions=(320, END))),
        cause="attention sees only part of the keys",
        op=BOTH,
        wrap=masked(0, last_320),
    ),
    Fault(
        name="attn_group_modulo",
        family="qwen3_moe",
        summary="Query head h reads kv head h modulo 2: heads 1 and 4 read the wrong one, in every layer.",
        truth=Site((), "attn.context", Slice(heads=(1, 4))),
        cause="heads aliased",
        op=BOTH,
        wrap=modulo_groups,
    ),
    Fault(
        name="attn_decode_log2e_twice",
        family="qwen3_moe",
        summary="Decode scales the scores by 1.44 too much; prefill is right.",
        truth=Site((), "attn.context"),
        cause="another softmax scale",
        details={"phase": "decode", "factor": 1.4427},
        op="attention_decode",
        wrap=twice_log2e,
    ),
    Fault(
        name="attn_split_merge_unweighted",
        family="qwen3_moe",
        summary="Decode splits the keys by 256 and merges the parts without their maxima: wrong past 256 keys.",
        truth=Site((), "attn.context", Slice(positions=(256, END))),
        cause="wrong in one phase only",
        details={"phase": "decode", "split": 256},
        op="attention_decode",
        wrap=unweighted_merge,
    ),
]
