"""Routing weights that are not those of the config: not renormalized, or of a softmax over the chosen experts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import WEIGHTS_NOT_NORMALIZED
from parity.records import Site


def not_renormalized(layers: tuple[int, ...]) -> Fault:
    """`norm_topk_prob` ignored in `layers`, or in all when there are none: the kernel is told not to divide."""

    def wrap(op: Any) -> Any:
        def router(*operands: Any, renormalize: bool, **rest: Any) -> Any:
            ignored = not layers or where().layer in layers
            return op(*operands, renormalize=renormalize and not ignored, **rest)

        return router

    return Fault(
        name="moe_topk_not_renormalized",
        family="qwen3_moe",
        summary="norm_topk_prob is ignored: the routed output is scaled by the sum of the top-k weights, by token.",
        truth=Site(layers, "moe.topk_weights"),
        cause=WEIGHTS_NOT_NORMALIZED,
        needs={"norm_topk_prob": True},
        op="router",
        wrap=wrap,
        instances=lambda seed, hyper: not_renormalized(Draw("moe_topk_not_renormalized", seed, hyper).layers()),
    )


def softmax_after_top_k(op: Any) -> Any:
    """Chooses from the real kernel's logits first, then runs softmax over the chosen alone."""

    def router(x: torch.Tensor, weight: torch.Tensor, *, logits_out: torch.Tensor | None = None, **rest: Any) -> Any:
        logits = logits_out
        if logits is None:
            logits = torch.empty((len(x), len(weight)), dtype=torch.float32, device=x.device)
        ids, weights = op(x, weight, logits_out=logits, **rest)
        return ids, weights.copy_(logits.gather(1, ids.long()).softmax(-1))

    return router


ORDER = Fault(
    name="moe_router_order",
    family="qwen3_moe",
    summary="Top-k runs before softmax; the same weights, as they are renormalized, up to rounding.",
    truth=None,
    cause=None,
    control=True,
    needs={"norm_topk_prob": True},
    op="router",
    wrap=softmax_after_top_k,
)

FAULTS = [
    not_renormalized(()),
    ORDER,
    replace(
        ORDER,
        name="moe_router_order_unnormalized",
        summary="Top-k runs before softmax where weights are not renormalized: they sum to 1 and should not.",
        truth=Site((), "moe.topk_weights"),
        cause=WEIGHTS_NOT_NORMALIZED,
        control=False,
        needs={"norm_topk_prob": False},
    ),
]
