"""The router reads a buffer that another kernel has written meanwhile: the attention's output, not the norm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import WRONG_INPUT
from parity.records import Site

LINEARS = ("linear_fp8", "linear_bf16")


def wrong_buffer(layers: tuple[int, ...]) -> Fault:
    """The fault in `layers`, or in all when there are none."""
    written: WeakKeyDictionary[Any, torch.Tensor] = WeakKeyDictionary()  # by engine instance: each its own buffer

    def remember(op: Any) -> Any:
        def linear(*operands: Any, **rest: Any) -> torch.Tensor:
            out = op(*operands, **rest)
            if where().role == "attn.out":
                written[where().arena] = out
            return out

        return linear

    def misdirect(op: Any) -> Any:
        def router(x: torch.Tensor, *operands: Any, **rest: Any) -> Any:
            other = written.get(where().arena)
            if other is not None and other.shape == x.shape and (not layers or where().layer in layers):
                x = other
            return op(x, *operands, **rest)

        return router

    return Fault(
        name="router_input_wrong_buffer",
        family="qwen3_moe",
        summary="The router reads the buffer that holds the attention's output instead of the normed residual.",
        truth=Site(layers, "moe.router_logits"),
        cause=WRONG_INPUT,
        op=(*LINEARS, "router"),
        wrap={**dict.fromkeys(LINEARS, remember), "router": misdirect},
        instances=instance,
    )


def instance(seed: int, hyper: Mapping[str, Any]) -> Fault:
    return wrong_buffer(Draw("router_input_wrong_buffer", seed, hyper).layers())


FAULTS = [wrong_buffer(())]
