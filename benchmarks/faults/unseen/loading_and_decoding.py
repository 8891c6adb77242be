"""Unseen faults outside the kernels: tensors of another layer or order, a sampler without a shard, a bare prompt."""

from __future__ import annotations

from dataclasses import replace

import torch

from parity.faults import Fault, Prompt
from parity.records import Site

_SEEN: dict[str, torch.Tensor] = {}


def layer_before(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """v_proj of layer 3 gets what was read for layer 2, weight and scale."""
    if ".layers.2." in name:
        _SEEN[name.replace(".layers.2.", ".layers.3.")] = tensor
        return tensor
    return _SEEN[name]


def heads_rolled(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Blocks of 128 rows, two heads each, with their scales: the shards of three ranks joined from the second on."""
    rows = 1 if name.endswith("scale_inv") else 128
    if tensor.element_size() == 1:
        return tensor.view(torch.uint8).roll(-rows, 0).view(tensor.dtype)
    return tensor.roll(-rows, 0)


def without_last_shard(logits: torch.Tensor) -> int:
    return int(logits[: 3 * len(logits) // 4].argmax())


def without_last_newline(prompt: Prompt) -> Prompt:
    if prompt.ids is not None:
        return prompt
    return replace(prompt, text=prompt.rendered().rstrip("\n"))


FAULTS = [
    Fault(
        name="load_v_of_layer_before",
        family="qwen3_moe",
        summary="The value projection of layer 3 is that of layer 2: a shard's file has an old index.",
        truth=Site((3,), "attn.v"),
        rung="checkpoint",
        cause="reads a wrong buffer",
        weights={
            "model.layers.2.self_attn.v_proj.*": layer_before,
            "model.layers.3.self_attn.v_proj.*": layer_before,
        },
    ),
    Fault(
        name="load_q_heads_rolled",
        family="qwen3_moe",
        summary="Query heads of layer 0 lie in the order 2, 3, 4, 5, 0, 1: shards joined from the wrong rank on.",
        truth=Site((0,), "attn.q"),
        rung="checkpoint",
        cause="heads permuted",
        weights={"model.layers.0.self_attn.q_proj.*": heads_rolled},
    ),
    Fault(
        name="sampler_without_last_shard",
        family="qwen3_moe",
        summary="The greedy path takes the largest logit of three shards of four: ids 3072 and up are never chosen.",
        rung="decode",
        cause="sampler picks another token than its own rule",
        sampler=without_last_shard,
    ),
    Fault(
        name="prompt_loses_last_newline",
        family="qwen3_moe",
        summary="The rendered conversation is stripped: the newline that primes the answer is gone.",
        rung="prompt",
        cause="prompt differs from the tokenizer's template",
        prompt=without_last_newline,
    ),
]
