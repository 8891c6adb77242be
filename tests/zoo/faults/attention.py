"""Faults that the lab was not made on: one head a little too strong, keys rotated by one position too many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import CONSTANT_RATIO, ROPE_POSITION
from parity.records import Site, Slice

FROM = 100


def one_head_stronger(layer: int, head: int, ratio: float) -> Fault:
    """Scales a correct result: the context of one head."""

    def wrap(op: Any) -> Any:
        def attention(*operands: Any, **rest: Any) -> torch.Tensor:
            out = op(*operands, **rest)
            if where().layer == layer:
                out[:, head] *= ratio
            return out

        return attention

    return Fault(
        name="one_head_stronger",
        family="qwen3_moe",
        summary="One head's context is 2 % too large in one layer.",
        truth=Site((layer,), "attn.context", Slice(heads=(head,))),
        cause=CONSTANT_RATIO,
        simulated=True,
        details={"ratio": ratio},
        op=("attention_prefill", "attention_decode"),
        wrap=wrap,
        instances=head_elsewhere,
    )


def head_elsewhere(seed: int, hyper: Mapping[str, Any]) -> Fault:
    draw = Draw("one_head_stronger", seed, hyper)
    return one_head_stronger(draw.layer(), draw.one_of(range(hyper.get("heads", 1))), draw.strength(1.02, 1.2))


def keys_one_further(op: Any) -> Any:
    """From position 100 on the real kernel rotates keys by one position more, and queries by their own."""

    def qk_norm_rope(q: Any, k: Any, q_weight: Any, k_weight: Any, positions: Any, *rest: Any, **more: Any) -> Any:
        q_before, k_before = q.clone(), k.clone()  # outputs may lie on the inputs
        own_q, own_k = op(q, k, q_weight, k_weight, positions, *rest, **more)
        further = positions + (positions >= FROM).to(positions.dtype)
        without = {name: value for name, value in more.items() if name in ("eps", "launch")}
        _, late_k = op(q_before, k_before, q_weight, k_weight, further, *rest, **without)
        return own_q, own_k.copy_(late_k)

    return qk_norm_rope


FAULTS = [
    one_head_stronger(1, 2, 1.02),
    Fault(
        name="keys_one_further",
        family="qwen3_moe",
        summary="Keys are rotated by one position too many from position 100 on.",
        truth=Site((), "attn.k_rope", Slice(positions=(FROM, 1 << 20))),
        cause=ROPE_POSITION,
        op="qk_norm_rope",
        wrap=keys_one_further,
    ),
]
