"""A norm of whole rows that never runs: forgotten before the head, or lost by the loader before the experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import MISSING_NORM, TENSOR_UNBOUND
from parity.records import Site
from parity_kernels.faults._no_norm import EPS, unit_gain


def passed_through(role: str, layer: int | None) -> Any:
    """Wraps add_rmsnorm: at that call the real kernel adds, and passes the sum on as it is."""

    def wrap(op: Any) -> Any:
        def add_rmsnorm(x: Any, residual: Any, weight: Any, *, eps: float, **rest: Any) -> Any:
            if (where().role, where().layer) == (role, layer):
                weight, eps = unit_gain(weight), EPS
            return op(x, residual, weight, eps=eps, **rest)

        return add_rmsnorm

    return wrap


def weight_never_bound(layer: int) -> Fault:
    """The norm before the experts of one layer: its gain matches no rule of the loader, and no norm is run for it."""
    tensor = f"model.layers.{layer}.post_attention_layernorm.weight"
    return Fault(
        name="weight_never_bound",
        family="qwen3_moe",
        summary="A norm's tensor matches no rule of the loader, is counted as matched, and the norm is not applied.",
        truth=Site((layer,), "mlp.norm"),
        rung="checkpoint",
        cause=TENSOR_UNBOUND,
        details={"tensor": tensor},
        weights={tensor: lambda name, value: None},
        op="add_rmsnorm",
        wrap=passed_through("mlp.norm", layer),
        instances=never_bound_elsewhere,
    )


def never_bound_elsewhere(seed: int, hyper: Mapping[str, Any]) -> Fault:
    return weight_never_bound(Draw("weight_never_bound", seed, hyper).layer())


FAULTS = [
    Fault(
        name="final_norm_missing",
        family="qwen3_moe",
        summary="No RMSNorm between the last layer and the LM head.",
        truth=Site((), "final_norm"),
        cause=MISSING_NORM,
        op="add_rmsnorm",
        wrap=passed_through("final_norm", None),
    ),
    weight_never_bound(1),
]
