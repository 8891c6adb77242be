"""Unseen faults of the rotary embedding: pairing, part of the head, scaling, positions of one phase or chunk."""

from __future__ import annotations

from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site

Q_AND_K = {"truth": Site((), "attn.q_rope"), "also": (Site((), "attn.k_rope"),)}


def reordered(op: Any, order: list[int], frequencies: Any, call: tuple[Any, ...], rest: dict[str, Any]) -> Any:
    """The kernel on heads whose dims are put in `order`, back in their own places afterwards."""
    q, k, q_weight, k_weight, positions, inv_freq = call
    shown = {name: rest.pop(name) for name in ("q_norm_out", "k_norm_out", "out_q", "out_k")}
    moved = {name: None if x is None else torch.empty_like(x) for name, x in shown.items()}
    turned = op(
        q[..., order].contiguous(), k[..., order].contiguous(), q_weight[order].contiguous(),
        k_weight[order].contiguous(), positions, frequencies(inv_freq), **moved, **rest,
    )  # fmt: skip
    for name, x in shown.items():
        if x is not None:
            x[..., order] = moved[name]
    return tuple(
        out if out is not None else made[..., torch.tensor(order).argsort().tolist()]
        for out, made in zip((shown["out_q"], shown["out_k"]), turned, strict=True)
    )


def interleaved(op: Any) -> Any:
    """Neighbours 2j and 2j + 1 are turned together, where the checkpoint pairs j with j + K/2."""

    def rope(*call: Any, **rest: Any) -> Any:
        dims = call[0].shape[-1]
        return reordered(op, [*range(0, dims, 2), *range(1, dims, 2)], lambda f: f, call, rest)

    return rope


def half_of_the_head(op: Any) -> Any:
    """partial_rotary_factor 0.5: the first half of a head is turned, with frequencies of its own width."""

    def rope(*call: Any, **rest: Any) -> Any:
        dims = call[0].shape[-1]
        part = dims // 4
        order = [*range(part), *range(2 * part, 3 * part), *range(part, 2 * part), *range(3 * part, dims)]

        def frequencies(inv_freq: torch.Tensor) -> torch.Tensor:
            slower = torch.zeros_like(inv_freq)
            slower[:part] = inv_freq[::2]
            return slower

        return reordered(op, order, frequencies, call, rest)

    return rope


def decode_position(op: Any) -> Any:
    """Decode counts the token about to be written."""

    def rope(q: Any, k: Any, q_weight: Any, k_weight: Any, positions: torch.Tensor, *args: Any, **rest: Any) -> Any:
        ahead = 1 if where().phase == "decode" else 0
        return op(q, k, q_weight, k_weight, positions + ahead, *args, **rest)

    return rope


def chunk_position(op: Any) -> Any:
    """From the second prefill chunk on, positions are counted from the chunk's own start."""

    def rope(q: Any, k: Any, q_weight: Any, k_weight: Any, positions: torch.Tensor, *args: Any, **rest: Any) -> Any:
        if where().phase == "prefill" and where().chunk > 0:
            positions = positions - positions.min()
        return op(q, k, q_weight, k_weight, positions, *args, **rest)

    return rope


def slow_pairs_of_keys(op: Any) -> Any:
    """Pairs 16 and up of the keys of layer 3 are turned at half their frequency, as a context extension would."""

    def rope(*call: Any, out_k: Any = None, k_norm_out: Any = None, **rest: Any) -> Any:
        q, k = op(*call, out_k=out_k, k_norm_out=k_norm_out, **rest)
        if where().layer != 3:
            return q, k
        slower = call[5].clone()
        slower[16:] /= 2
        return q, op(*call[:5], slower, eps=rest["eps"], out_k=k)[1]

    return rope


FAULTS = [
    Fault(
        name="rope_neighbours_paired",
        family="qwen3_moe",
        summary="Rotary pairs are dims 2j and 2j + 1 instead of j and j + 32.",
        cause="rope pairs paired otherwise",
        op="qk_norm_rope",
        wrap=interleaved,
        **Q_AND_K,
    ),
    Fault(
        name="rope_half_head",
        family="qwen3_moe",
        summary="Only the first 32 of 64 dims of a head are turned, by a partial_rotary_factor that the config lacks.",
        cause="rotation of another part of the head",
        op="qk_norm_rope",
        wrap=half_of_the_head,
        **Q_AND_K,
    ),
    Fault(
        name="rope_decode_one_ahead",
        family="qwen3_moe",
        summary="Decode steps turn queries and keys by position + 1; prefill is right.",
        cause="rope position off by a constant",
        details={"phase": "decode", "offset": 1},
        op="qk_norm_rope",
        wrap=decode_position,
        **Q_AND_K,
    ),
    Fault(
        name="rope_chunk_restarts",
        family="qwen3_moe",
        summary="From the second prefill chunk on, rotary positions restart at 0; a prompt fed whole is right.",
        cause="wrong from a chunk boundary on",
        op="qk_norm_rope",
        wrap=chunk_position,
        **Q_AND_K,
    ),
    Fault(
        name="rope_slow_pairs_of_keys",
        family="qwen3_moe",
        summary="The slow half of the frequencies is divided by 2, for the keys of layer 3 only.",
        truth=Site((3,), "attn.k_rope"),
        cause="rope scaling of some frequency pairs",
        op="qk_norm_rope",
        wrap=slow_pairs_of_keys,
    ),
]
