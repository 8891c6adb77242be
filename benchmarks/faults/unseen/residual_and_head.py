"""Unseen faults of the residual stream and the LM head: a lost term in decode, shards exchanged, one shard's scale."""

from __future__ import annotations

from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice


def branch_alone(op: Any) -> Any:
    """Decode, after attention of layer 3: the stream is replaced by the branch."""

    def norm(x: Any, residual: Any, *args: Any, **rest: Any) -> Any:
        now = where()
        if (now.phase, now.role, now.layer) == ("decode", "mlp.norm", 3):
            residual = torch.zeros_like(residual)
        return op(x, residual, *args, **rest)

    return norm


def shards_exchanged(op: Any) -> Any:
    """Ranks 2 and 3 of a vocabulary-parallel head are gathered in the wrong order."""

    def linear(x: Any, weight: torch.Tensor, **rest: Any) -> torch.Tensor:
        if where().role == "logits":
            first, second, third, fourth = weight.chunk(4)
            weight = torch.cat((first, second, fourth, third))
        return op(x, weight, **rest)

    return linear


def shard_scaled(op: Any) -> Any:
    """One shard of the head has a scale of its own that is 2 % off."""

    def linear(x: Any, weight: torch.Tensor, **rest: Any) -> torch.Tensor:
        logits = op(x, weight, **rest)
        if where().role == "logits":
            quarter = weight.shape[0] // 4
            logits[:, quarter : 2 * quarter] *= 1.02
        return logits

    return linear


FAULTS = [
    Fault(
        name="residual_lost_in_decode",
        family="qwen3_moe",
        summary="In decode the residual is not added after attention of layer 3; prefill is right.",
        truth=Site((3,), "resid.mid"),
        cause="residual not added",
        details={"phase": "decode"},
        op="add_rmsnorm",
        wrap=branch_alone,
    ),
    Fault(
        name="head_shards_exchanged",
        family="qwen3_moe",
        summary="The last two of four shards of the LM head are gathered in the wrong order.",
        truth=Site((), "logits", Slice(columns=(2048, 4096))),
        cause="columns are permuted",
        op="linear_bf16",
        wrap=shards_exchanged,
    ),
    Fault(
        name="head_shard_two_percent",
        family="qwen3_moe",
        summary="Logits of ids 1024 to 2047 are 2 % too large.",
        truth=Site((), "logits", Slice(columns=(1024, 2048))),
        cause="constant ratio",
        simulated=True,
        details={"ratio": 1.02},
        op="linear_bf16",
        wrap=shard_scaled,
    ),
]
