"""Which experts were chosen, and what did each compute? Wrappers around vLLM's router and its fused expert kernel.

The kernel shows nothing of its inside, and what leaves it is the weighted sum over the chosen experts. So it is asked
once more for every slot, with the same rows, the same ids and the weight 1 for that slot and 0 for the others: the same
launch, whose sum is that expert's own row before the routing weight (`moe.down`). The engine goes on with its first
answer. A row that is not finite shows in every slot of its token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from parity.errors import ProbeError

ROUTER, APART = "router", "apart"
"""Names under which a module of experts offers them: (weights, ids), each [T, S]; and [T, S, D], an expert a slot."""

Take = Callable[[Any], None]


def offers_experts(module: Any) -> tuple[str, ...]:
    """Which of `router` and `apart` a module offers: a modular kernel both, a monolithic one neither."""
    routed, router = getattr(module, "routed_experts", None), getattr(module, "router", None)
    if router is None or not hasattr(routed, "forward_modular") or getattr(module, "is_monolithic", False):
        return ()
    return (ROUTER, APART)


def wrap_experts(
    module: Any, name: str, take_router: Take | None, take_apart: Take | None, undo: list[Callable[[], None]]
) -> None:
    """Show what the router chose and what each expert computed, from now until `undo` is run."""
    if not offers_experts(module):
        raise ProbeError(
            place=f"{name} of vLLM",
            expected="a router and a modular expert kernel",
            found=f"{type(module).__name__}, whose kernel chooses the experts inside",
            next_step="Choose another expert backend in vLLM's arguments, or leave these stages out.",
        )
    router, routed = module.router, module.routed_experts
    choose = "_compute_routing" if hasattr(router, "_compute_routing") else "select_experts"
    own_choice, own_experts = getattr(router, choose), routed.forward_modular

    def chosen(*args: Any, **kwargs: Any) -> Any:
        weights, ids = own_choice(*args, **kwargs)
        if take_router is not None:
            take_router((weights, ids))
        return weights, ids

    def computed(*args: Any, **kwargs: Any) -> Any:
        if take_apart is not None:
            take_apart(each_apart(own_experts, args, kwargs))
        return own_experts(*args, **kwargs)

    # Ids as the router means them: after `_compute_routing` come those of expert replicas.
    _replace(router, choose, chosen, undo)
    _replace(routed, "forward_modular", computed, undo)


def each_apart(experts: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """[T, S, D]: what `experts(x, topk_weights, topk_ids, ...)` computes for each slot by itself, with weight 1."""
    given = dict(zip(("x", "topk_weights", "topk_ids"), args, strict=False)) | kwargs
    x, weights, ids = given["x"], given["topk_weights"], given["topk_ids"]
    found = []
    for slot in range(ids.shape[1]):
        alone = torch.zeros_like(weights)
        alone[:, slot] = 1
        # Some kernels write into their input.
        found.append(experts(x=x.clone(), topk_weights=alone, topk_ids=ids.clone()).clone())
    return torch.stack(found, dim=1)


def _replace(owner: Any, name: str, function: Callable[..., Any], undo: list[Callable[[], None]]) -> None:
    vars(owner)[name] = function
    undo.append(lambda: vars(owner).pop(name))
