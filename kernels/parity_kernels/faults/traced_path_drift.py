"""The instrumented path is an older copy of the production one: a fix reached only one of them."""

from __future__ import annotations

from typing import Any

from parity.faults import Fault, where
from parity.fingerprint.causes import PROBES_CHANGE_BITS


def older_when_traced(op: Any) -> Any:
    """Wraps the router: with probes on, as it was before routing weights were renormalized."""

    def router(*operands: Any, renormalize: bool, **rest: Any) -> Any:
        return op(*operands, renormalize=renormalize and not where().traced, **rest)

    return router


FAULTS = [
    Fault(
        name="traced_path_drift",
        family="qwen3_moe",
        summary="Traces show numbers that production never computes: the traced router does not renormalize.",
        truth=None,
        rung="probes",
        cause=PROBES_CHANGE_BITS,
        needs={"norm_topk_prob": True},
        op="router",
        wrap=older_when_traced,
    ),
]
