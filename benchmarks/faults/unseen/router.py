"""Unseen faults of the router: a bias, another transform, coarse sort keys, one expert's logits, narrow weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice

Change = Callable[[torch.Tensor], torch.Tensor]


def same(logits: torch.Tensor) -> torch.Tensor:
    return logits


def routed(
    layers: tuple[int, ...], *, logits_of: Change = same, keys_of: Change = same, sigmoid: bool = False
) -> Callable[[Any], Any]:
    """Wrap of the router: a kernel of its own in `layers` (all where there are none), FP32 throughout."""

    def wrap(op: Any) -> Any:
        def router(
            x: torch.Tensor, weight: torch.Tensor, *, top_k: int, renormalize: bool, logits_out: Any = None, **rest: Any
        ) -> Any:
            if layers and where().layer not in layers:
                return op(x, weight, top_k=top_k, renormalize=renormalize, logits_out=logits_out, **rest)
            logits = logits_of(x.float() @ weight.float().T)
            if logits_out is not None:
                logits_out.copy_(logits)
            ids = torch.sort(keys_of(logits), dim=-1, descending=True, stable=True).indices[:, :top_k]
            weights = (logits.sigmoid() if sigmoid else logits.softmax(-1)).gather(1, ids)
            if renormalize:
                weights = weights / weights.sum(-1, keepdim=True)
            return ids.int().contiguous(), weights.contiguous()

        return router

    return wrap


def with_bias(logits: torch.Tensor) -> torch.Tensor:
    logits[:, 9] += 0.4
    return logits


def one_smaller(logits: torch.Tensor) -> torch.Tensor:
    logits[:, 10] *= 0.97
    return logits


def packed(logits: torch.Tensor) -> torch.Tensor:
    """Sort keys with 5 bits of mantissa, the rest of the word being the expert's number."""
    return (logits.contiguous().view(torch.int32) & -(1 << 18)).view(torch.float32)


def through_e4m3(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float8_e4m3fn).to(tensor.dtype)


FAULTS = [
    Fault(
        name="router_bias_of_one_expert",
        family="qwen3_moe",
        summary="Expert 9 of layer 3 has a correction bias of 0.4 that the model does not have.",
        truth=Site((3,), "moe.router_logits", Slice(experts=(9,), columns=(9, 10))),
        cause="one vector added to, or missing from, every row",
        op="router",
        wrap=routed((3,), logits_of=with_bias),
    ),
    Fault(
        name="router_logits_of_one_expert",
        family="qwen3_moe",
        summary="The logits of expert 10 in layer 2 are 3 % too small.",
        truth=Site((2,), "moe.router_logits", Slice(experts=(10,), columns=(10, 11))),
        cause="constant ratio",
        details={"ratio": 0.97},
        op="router",
        wrap=routed((2,), logits_of=one_smaller),
    ),
    Fault(
        name="router_sigmoid",
        family="qwen3_moe",
        summary="Routing weights are sigmoids of the logits, normalized, where the model has a softmax.",
        truth=Site((), "moe.topk_weights"),
        cause="gate transform not applied",
        op="router",
        wrap=routed((), sigmoid=True),
    ),
    Fault(
        name="router_coarse_keys",
        family="qwen3_moe",
        summary="In layers 1 and 3 top-k sorts keys of 5 mantissa bits: close logits go to the lower expert.",
        truth=Site((1, 3), "moe.topk_ids"),
        cause="expert ids that the logits do not give",
        op="router",
        wrap=routed((1, 3), keys_of=packed),
    ),
    Fault(
        name="router_weights_e4m3",
        family="qwen3_moe",
        summary="modules_to_not_convert is ignored for the routers of layers 0 and 3: their weights become E4M3.",
        truth=Site((0, 3), "moe.router_logits"),
        rung="checkpoint",
        cause="values on the E4M3 grid",
        weights={
            "model.layers.0.mlp.gate.weight": through_e4m3,
            "model.layers.3.mlp.gate.weight": through_e4m3,
        },
    ),
]
