"""What do engines call the same hyper-parameter? A closed table of names, and how two values of one are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

NAMES: dict[str, tuple[str, ...]] = {
    "family": ("model_type", "architecture", "general.architecture"),
    "vocab": ("vocab_size", "n_vocab"),
    "hidden": ("hidden_size", "n_embd", "embedding_length"),
    "layers": ("num_hidden_layers", "n_layer", "block_count"),
    "heads": ("num_attention_heads", "n_head", "attention.head_count"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "attention.head_count_kv"),
    "head_dim": ("n_embd_head_k", "attention.key_length"),
    "experts": ("num_experts", "num_local_experts", "n_expert", "expert_count"),
    "top_k": ("num_experts_per_tok", "n_expert_used", "expert_used_count"),
    "expert_width": ("moe_intermediate_size", "expert_feed_forward_length"),
    "norm_topk_prob": ("renormalize", "expert_weights_norm"),
    "rms_eps": ("rms_norm_eps", "f_norm_rms_eps", "attention.layer_norm_rms_epsilon"),
    "norm_offset": (),
    "rope_theta": ("rope_freq_base", "rope.freq_base"),
    "rope_scaling": ("rope.scaling",),
    "rotary_dim": ("n_rot", "rope.dimension_count"),
    "softmax_scale": ("attention_scale", "f_attention_scale", "scaling"),
    "sliding_window": ("n_swa", "attention.sliding_window"),
    "tied_embeddings": ("tie_word_embeddings",),
    "max_positions": ("max_position_embeddings", "n_ctx_train", "context_length", "max_model_len"),
    "quantization": ("quant_method",),
}
"""Canonical name to what others call it. GGUF spells them with the architecture in front, which is cut off."""

VALUES: dict[str, dict[str, Any]] = {"quantization": {"fp8": "fp8_block"}, "family": {"qwen3moe": "qwen3_moe"}}
"""Values that are spelled otherwise elsewhere."""

_CANONICAL = {alias: name for name, aliases in NAMES.items() for alias in (name, *aliases)}


def canonical(hyper: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`hyper` under canonical names, and the names that are none of the table's, which nobody compares.

    A `rope_parameters` object, as newer HF configurations have it, is read as its `rope_theta` and, unless its type is
    `default`, as `rope_scaling`.
    """
    known: dict[str, Any] = {}
    unknown: list[str] = []
    for given, value in hyper.items():
        if given == "rope_parameters" and isinstance(value, Mapping):
            if "rope_theta" in value:
                known.setdefault("rope_theta", value["rope_theta"])
            known.setdefault("rope_scaling", None if value.get("rope_type", "default") == "default" else dict(value))
            continue
        name = _CANONICAL.get(given) or _CANONICAL.get(given.partition(".")[2])
        if name is None:
            unknown.append(given)
        else:
            known[name] = VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value
    return known, tuple(unknown)


def same_value(expected: Any, found: Any) -> bool:
    """Equal; numbers are when fp32, in which engines keep them, cannot tell them apart. True is no 1."""
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (expected, found))
    if numbers:
        return bool(expected == found or np.float32(expected) == np.float32(found))
    return type(expected) is type(found) and expected == found
