"""With which hyper-parameters and in which precision does vLLM run? Read from its modules, not from the checkpoint."""

from __future__ import annotations

from typing import Any

from parity.records import Recipe

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

ROUNDING = {"bf16": "bf16_vllm"}
"""Recipes that say where vLLM's kernels round, by the dtype of the model."""

ON_GPU = {"bf16_vllm": "bf16_vllm_cuda"}
"""The same where its norms are those of `GPU_KERNELS`."""

GPU_KERNELS = "vllm_c"
"""vLLM's name for its own compiled implementation of an operation; norms have it on GPUs alone."""


def effective_hyper(model: Any, config: Any, family: str) -> dict[str, Any]:
    """Hyper-parameters by the names of the other runners, as the model's modules hold them.

    What no module holds comes from vLLM's own reading of the configuration.
    """
    stated, inner = config.model_config.hf_text_config, model.model
    layer = inner.layers[0]
    attention = layer.self_attn
    rotary = attention.rotary_emb
    found = {
        "family": family,
        "vocab": int(model.lm_head.org_vocab_size),
        "hidden": int(inner.embed_tokens.embedding_dim),
        "layers": len(inner.layers),
        "heads": int(attention.num_heads),
        "kv_heads": int(attention.num_kv_heads),
        "head_dim": int(attention.head_dim),
        "rms_eps": float(layer.input_layernorm.variance_epsilon),
        "rope_theta": float(rotary.base),
        "rotary_dim": int(rotary.rotary_dim),
        "softmax_scale": float(attention.scaling),
        "tied_embeddings": bool(stated.tie_word_embeddings),
        "max_positions": int(config.model_config.max_model_len),
        "quantization": config.model_config.quantization,
    }
    experts = getattr(layer.mlp, "experts", None)
    if experts is None:
        dense = {"experts": 0, "top_k": 0, "norm_topk_prob": False}
        return {**found, **dense, "expert_width": int(stated.intermediate_size)}
    router = getattr(experts, "router", None)
    return {
        **found,
        "experts": int(stated.num_experts),
        "top_k": int(getattr(router, "top_k", stated.num_experts_per_tok)),
        "expert_width": int(stated.moe_intermediate_size),
        "norm_topk_prob": bool(getattr(router, "renormalize", stated.norm_topk_prob)),
    }


def recipe_of(config: Any) -> Recipe:
    """The precision recipe as vLLM states it: formats of weights, activations and cache.

    A quantized model is named by vLLM's name of the method; a block-scaled FP8 checkpoint is `fp8_block`. In BF16 it is
    `bf16_vllm`, or `bf16_vllm_cuda` where vLLM names its kernels for GPUs first for norms (a model that it compiles has
    native ones there, too): see parity_oracles/recipes/vllm.py.
    """
    model = config.model_config
    dtype = str(model.dtype).removeprefix("torch.")
    short = SHORT.get(dtype, dtype)
    cache = str(config.cache_config.cache_dtype)
    cache = short if cache == "auto" else cache
    quantized = model.quantization
    section = getattr(model.hf_text_config, "quantization_config", None) or {}
    own = ROUNDING.get(short, short)
    own = ON_GPU.get(own, own) if _norms_by(config) == GPU_KERNELS else own
    name = "fp8_block" if quantized == "fp8" and section.get("weight_block_size") else quantized or own
    return Recipe(name, quantized or short, quantized or short, short, "fp32", cache, short)


def _norms_by(config: Any) -> str | None:
    """The implementation of norms that vLLM takes first, by its name for it; None in versions that do not say."""
    priority = getattr(getattr(config, "kernel_config", None), "ir_op_priority", None)
    return next(iter(getattr(priority, "rms_norm", ())), None)
