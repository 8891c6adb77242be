"""Where are the stages of llama and qwen3 in HF's models, and what do their parameters hold?

| stage | where |
|---|---|
| embed.out, norms, projections, head norms, attn.out, mlp.gate, mlp.up, mlp.down, resid.out, final_norm, logits | module outputs |
| mlp.act | input of the down projection |
| resid.mid | input of the post-attention norm (a graft is written into the tensor, which is the residual too) |
| attn.q_rope, attn.context; attn.k_rope | attention core; KV cache (parity_oracles/hf/attention.py) |
"""  # noqa: E501  (a row of a table)

from __future__ import annotations

from typing import Any

import torch

from parity_oracles.checkpoint import Checkpoint, Hyper, layout
from parity_oracles.hf.taps import Taps

LAYER_OUTPUTS = {
    "attn.norm": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj",
    "mlp.norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "resid.out": "",
}
HEAD_NORMS = {"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}
LAYER_INPUTS = {"resid.mid": "post_attention_layernorm", "mlp.act": "mlp.down_proj"}
OUTPUTS = {"embed.out": "model.embed_tokens", "final_norm": "model.norm", "logits": "lm_head"}


def place_taps(taps: Taps) -> None:
    """Install the taps of every stage of the family."""
    normed = taps.model.config.model_type == "qwen3"
    for stage, path in OUTPUTS.items():
        taps.on_output(stage, None, taps.model.get_submodule(path))
    for index, layer in enumerate(taps.model.model.layers):
        for stage, path in {**LAYER_OUTPUTS, **(HEAD_NORMS if normed else {})}.items():
            taps.on_output(stage, index, layer.get_submodule(path))
        for stage, path in LAYER_INPUTS.items():
            taps.on_input(stage, index, layer.get_submodule(path))
        taps.mark(layer.self_attn, index)


def parameters(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every parameter of the HF model by its name there."""
    hyper = checkpoint.hyper
    found = {name: checkpoint.weight(name, dtype) for name in (*layout.plain(hyper), *layout.quantizable(hyper))}
    if hyper.tied_embeddings:
        found["lm_head.weight"] = found["model.embed_tokens.weight"]
    return found


def effective_hyper(model: Any, checkpoint: Checkpoint) -> Hyper:
    """The hyper-parameters with which the built model computes, read from its modules and not from the file."""
    layer = model.model.layers[0]
    attention = layer.self_attn
    return Hyper(
        family=model.config.model_type,
        vocab=model.lm_head.out_features,
        hidden=model.lm_head.in_features,
        layers=len(model.model.layers),
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        experts=0,
        top_k=0,
        expert_width=layer.mlp.down_proj.in_features,
        norm_topk_prob=False,
        rms_eps=model.model.norm.variance_epsilon,
        rope_theta=float(model.config.rope_parameters["rope_theta"]),
        tied_embeddings=model.lm_head.weight is model.model.embed_tokens.weight,
        max_positions=model.config.max_position_embeddings,
        quantization=checkpoint.hyper.quantization,
    )
