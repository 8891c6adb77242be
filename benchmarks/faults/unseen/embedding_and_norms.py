"""Unseen faults of the embedding, the norms and the config: a lost vocabulary shard, multipliers, gains, an eps."""

from __future__ import annotations

from typing import Any

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice


def lost_shard(op: Any) -> Any:
    """A vocabulary-parallel embedding whose second rank of four never joins the sum."""

    def embed(ids: Any, weight: torch.Tensor, **rest: Any) -> torch.Tensor:
        quarter = weight.shape[0] // 4
        weight = weight.clone()
        weight[quarter : 2 * quarter] = 0
        return op(ids, weight, **rest)

    return embed


def multiplied(op: Any) -> Any:
    """An `embedding_multiplier` that the family does not have."""

    def embed(*args: Any, **rest: Any) -> torch.Tensor:
        return op(*args, **rest).mul_(1.02)

    return embed


def gain_plus_one(op: Any) -> Any:
    """The gain read as w where the family stores w - 1."""

    def norm(x: Any, residual: Any, weight: torch.Tensor, **rest: Any) -> Any:
        if where().role == "mlp.norm" and where().layer == 3:
            weight = (weight.float() + 1).to(weight.dtype)
        return op(x, residual, weight, **rest)

    return norm


def gain_of_two_blocks(op: Any) -> Any:
    """The last of three blocks of 128 channels leaves without its gain."""

    def norm(x: Any, residual: Any, weight: torch.Tensor, **rest: Any) -> Any:
        if where().role == "final_norm":
            weight = weight.clone()
            weight[256:] = 1
        return op(x, residual, weight, **rest)

    return norm


def gain_of_queries(op: Any) -> Any:
    """Both halves of the fused kernel get the query's gain."""

    def rope(q: Any, k: Any, q_weight: Any, k_weight: Any, *args: Any, **rest: Any) -> Any:
        return op(q, k, q_weight, q_weight, *args, **rest)

    return rope


FAULTS = [
    Fault(
        name="embed_shard_lost",
        family="qwen3_moe",
        summary="Ids of the second quarter of the vocabulary get a row of zeros: their shard is not summed in.",
        truth=Site((), "embed.out"),
        cause="rows were never written",
        op="embed",
        wrap=lost_shard,
    ),
    Fault(
        name="embed_multiplier_two_percent",
        family="qwen3_moe",
        summary="Every embedding is 2 % too large: a multiplier of another family is applied.",
        truth=Site((), "embed.out"),
        cause="constant ratio",
        details={"ratio": 1.02},
        op="embed",
        wrap=multiplied,
    ),
    Fault(
        name="mlp_norm_gain_plus_one",
        family="qwen3_moe",
        summary="The norm before the experts of layer 3 multiplies by 1 + w.",
        truth=Site((3,), "mlp.norm"),
        cause="a factor of its own for each channel",
        op="add_rmsnorm",
        wrap=gain_plus_one,
    ),
    Fault(
        name="final_norm_third_block",
        family="qwen3_moe",
        summary="The final norm's gain is not applied to channels 256 and up.",
        truth=Site((), "final_norm", Slice(columns=(256, 384))),
        cause="a factor of its own for each channel",
        op="add_rmsnorm",
        wrap=gain_of_two_blocks,
    ),
    Fault(
        name="k_norm_has_q_gain",
        family="qwen3_moe",
        summary="Keys are normalized with the gain of the queries, in every layer.",
        truth=Site((), "attn.k_norm"),
        cause="a factor of its own for each channel",
        op="qk_norm_rope",
        wrap=gain_of_queries,
    ),
    Fault(
        name="rms_eps_is_a_default",
        family="qwen3_moe",
        summary="The engine's default epsilon, 1e-5, instead of the checkpoint's 1e-6.",
        rung="config",
        cause="hyper-parameter differs from the checkpoint",
        details={"key": "rms_eps"},
        config={"rms_eps": 1e-5},
    ),
]
