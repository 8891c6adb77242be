"""The checkpoint's metadata lacks the rope base, and the loader falls back to a default of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.faults import Draw, Fault
from parity.fingerprint.causes import ROPE_THETA
from parity.records import Site

DEFAULT = 10_000.0
"""The incident's default."""


def theta_default(default: float) -> Fault:
    """The fault with another default."""

    def from_metadata(hyper: Mapping[str, Any]) -> Mapping[str, Any]:
        metadata = {key: value for key, value in hyper.items() if key != "rope_theta"}  # the converter left it out
        return {"rope_theta": metadata.get("rope_theta", default)}

    return Fault(
        name="rope_theta_default",
        family="qwen3_moe",
        summary="The rope base is the loader's default, since the checkpoint's metadata does not have it.",
        truth=Site((), "attn.q_rope"),
        also=(Site((), "attn.k_rope"),),
        rung="config",
        cause=ROPE_THETA,
        details={"key": "rope_theta", "value": default},
        config=from_metadata,
        instances=instance,
    )


def instance(seed: int, hyper: Mapping[str, Any]) -> Fault:
    others = [base for base in (10_000.0, 50_000.0, 150_000.0, 500_000.0) if base != hyper.get("rope_theta")]
    return theta_default(Draw("rope_theta_default", seed, hyper).one_of(others))


FAULTS = [theta_default(DEFAULT)]
