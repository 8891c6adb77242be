"""Where are the stages of qwen3_moe in HF's `Qwen3MoeForCausalLM`, and what do its parameters hold?

| stage | where |
|---|---|
| embed.out, norms, projections, q/k norm, attn.out, moe.experts, resid.out, final_norm, logits | module outputs |
| resid.mid | input of the post-attention norm (a graft is written into the tensor, which is the residual too) |
| attn.q_rope, attn.context; attn.k_rope | attention core; KV cache (parity_oracles/hf/attention.py) |
| moe.router_logits, moe.topk_ids, moe.topk_weights | the router's three results |
| moe.gate, moe.up, moe.act, moe.down | expert loop (parity_oracles/hf/experts.py) |

`resid.out` is read from the layer and not from `hidden_states`: the last of those is after the final norm.
"""

from __future__ import annotations

from typing import Any

import torch

from parity.errors import ValueRangeError
from parity_oracles.checkpoint import Checkpoint, Hyper, layout
from parity_oracles.hf.taps import Taps

LAYER_OUTPUTS = {
    "attn.norm": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "attn.out": "self_attn.o_proj",
    "mlp.norm": "post_attention_layernorm",
    "moe.experts": "mlp.experts",
    "resid.out": "",
}
OUTPUTS = {"embed.out": "model.embed_tokens", "final_norm": "model.norm", "logits": "lm_head"}


def place_taps(taps: Taps) -> None:
    """Install the taps of every stage of the family."""
    for stage, path in OUTPUTS.items():
        taps.on_output(stage, None, taps.model.get_submodule(path))
    for index, layer in enumerate(taps.model.model.layers):
        for stage, path in LAYER_OUTPUTS.items():
            taps.on_output(stage, index, layer.get_submodule(path))
        # Before the norm's own output in the same layer, and after the hooks of the layer before.
        taps.on_input("resid.mid", index, layer.post_attention_layernorm)
        taps.on_result(layer.mlp.gate, _router(taps, index, layer.mlp.gate))
        taps.mark(layer.self_attn, index)
        taps.mark(layer.mlp.experts, index)


def _router(taps: Taps, layer: int, router: Any) -> Any:
    """Shows the router's logits, ids and weights; what follows a graft is recomputed from this model's own logits."""

    def rewrite(output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        logits, weights, ids = output
        back = taps.put("moe.router_logits", layer, logits)
        if back is not logits:
            logits = back
            ids = logits.softmax(-1, dtype=torch.float).topk(router.top_k, -1).indices
            weights = _weights_at(logits, ids, router)
        shown = ids.int()
        back = taps.put("moe.topk_ids", layer, shown)
        if back is not shown:
            ids = back.long()
            if int(ids.min()) < 0 or int(ids.max()) >= router.num_experts:
                raise ValueRangeError(
                    place=f"graft at moe.topk_ids of layer {layer}",
                    expected=f"expert ids 0..{router.num_experts - 1}",
                    found=f"{int(ids.min())}..{int(ids.max())}",
                    next_step="Take the ids from a trace of the same model.",
                )
            weights = _weights_at(logits, ids, router)
        return logits, taps.put("moe.topk_weights", layer, weights), ids

    return rewrite


def _weights_at(logits: torch.Tensor, ids: torch.Tensor, router: Any) -> torch.Tensor:
    """What HF's router gives the experts `ids`: softmax in fp32, renormalized when configured, in the logits' dtype."""
    chosen = logits.softmax(-1, dtype=torch.float).gather(-1, ids)
    if router.norm_topk_prob:
        chosen = chosen / chosen.sum(-1, keepdim=True)
    return chosen.to(logits.dtype)


def parameters(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every parameter of the HF model by its name there; experts fused, E first, gate rows before up rows."""
    hyper = checkpoint.hyper
    found = {name: checkpoint.weight(name, dtype) for name in layout.plain(hyper)}
    if hyper.tied_embeddings:
        found["lm_head.weight"] = found["model.embed_tokens.weight"]
    for layer in range(hyper.layers):
        for part in layout.PROJECTIONS:
            name = layout.projection(layer, part)
            found[name] = checkpoint.weight(name, dtype)
        experts = [
            [checkpoint.weight(layout.expert(layer, index, part), dtype) for part in layout.EXPERT_PARTS]
            for index in range(hyper.experts)
        ]
        at = f"model.layers.{layer}.mlp.experts"
        found[f"{at}.gate_up_proj"] = torch.stack([torch.cat((gate, up)) for gate, up, _ in experts])
        found[f"{at}.down_proj"] = torch.stack([down for _, _, down in experts])
    return found


def effective_hyper(model: Any, checkpoint: Checkpoint) -> Hyper:
    """The hyper-parameters with which the built model computes, read from its modules and not from the file."""
    layer = model.model.layers[0]
    attention, router, experts = layer.self_attn, layer.mlp.gate, layer.mlp.experts
    theta = float(model.config.rope_parameters["rope_theta"])
    return Hyper(
        family="qwen3_moe",
        vocab=model.lm_head.out_features,
        hidden=model.lm_head.in_features,
        layers=len(model.model.layers),
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        experts=experts.gate_up_proj.shape[0],
        top_k=router.top_k,
        expert_width=experts.down_proj.shape[-1],
        norm_topk_prob=bool(router.norm_topk_prob),
        rms_eps=model.model.norm.variance_epsilon,
        rope_theta=theta,
        tied_embeddings=model.lm_head.weight is model.model.embed_tokens.weight,
        max_positions=model.config.max_position_embeddings,
        quantization=checkpoint.hyper.quantization,
    )
