"""The per-head RMSNorm of q and k is not applied: the rotation sees the projections as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import MISSING_NORM
from parity.records import Site
from parity_kernels.faults._no_norm import EPS, unit_gain


def qk_norm_missing(layers: tuple[int, ...]) -> Fault:
    """The fault in `layers`, or in all when there are none; the real kernel rotates, its norm passes rows through."""

    def wrap(op: Any) -> Any:
        def unnormalized(q: Any, k: Any, q_weight: Any, k_weight: Any, *rest: Any, eps: float, **more: Any) -> Any:
            if not layers or where().layer in layers:
                q_weight, k_weight, eps = unit_gain(q_weight), unit_gain(k_weight), EPS
            return op(q, k, q_weight, k_weight, *rest, eps=eps, **more)

        return unnormalized

    return Fault(
        name="qk_norm_missing",
        family="qwen3_moe",
        summary="The per-head RMSNorm of q and k is not applied.",
        truth=Site(layers, "attn.q_norm"),
        also=(Site(layers, "attn.k_norm"),),
        cause=MISSING_NORM,
        op="qk_norm_rope",
        wrap=wrap,
        instances=instance,
    )


def instance(seed: int, hyper: Mapping[str, Any]) -> Fault:
    return qk_norm_missing(Draw("qk_norm_missing", seed, hyper).layers())


FAULTS = [qk_norm_missing(())]
