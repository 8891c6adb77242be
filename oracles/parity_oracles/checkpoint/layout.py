"""Which tensors must a qwen3_moe checkpoint hold, of which shapes, and which of them may be FP8?"""

from __future__ import annotations

from parity_oracles.checkpoint.hyper import Hyper

PROJECTIONS = ("q", "k", "v", "o")
EXPERT_PARTS = ("gate", "up", "down")


def projection(layer: int, part: str) -> str:
    """The name of an attention projection's weight."""
    return f"model.layers.{layer}.self_attn.{part}_proj.weight"


def expert(layer: int, index: int, part: str) -> str:
    """The name of one expert's weight."""
    return f"model.layers.{layer}.mlp.experts.{index}.{part}_proj.weight"


def weights(hyper: Hyper) -> int:
    """How many weights the two lists below hold, without making them: a configuration may claim a billion layers."""
    each = len(PROJECTIONS) + hyper.experts * len(EXPERT_PARTS) + 5
    return 2 + hyper.layers * each + (not hyper.tied_embeddings)


def quantizable(hyper: Hyper) -> dict[str, tuple[int, ...]]:
    """Linear weights that a block-FP8 checkpoint may store as E4M3, name to [N, K]."""
    inner, outer = hyper.heads * hyper.head_dim, hyper.kv_heads * hyper.head_dim
    shapes = {
        "q": (inner, hyper.hidden),
        "k": (outer, hyper.hidden),
        "v": (outer, hyper.hidden),
        "o": (hyper.hidden, inner),
        "gate": (hyper.expert_width, hyper.hidden),
        "up": (hyper.expert_width, hyper.hidden),
        "down": (hyper.hidden, hyper.expert_width),
    }
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(hyper.layers):
        found |= {projection(layer, part): shapes[part] for part in PROJECTIONS}
        for index in range(hyper.experts):
            found |= {expert(layer, index, part): shapes[part] for part in EXPERT_PARTS}
    return found


def plain(hyper: Hyper) -> dict[str, tuple[int, ...]]:
    """Tensors that are never quantized, name to shape: embedding, norms, routers, and the head unless it is tied."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (hyper.vocab, hyper.hidden),
        "model.norm.weight": (hyper.hidden,),
    }
    for layer in range(hyper.layers):
        at = f"model.layers.{layer}"
        found |= {
            f"{at}.input_layernorm.weight": (hyper.hidden,),
            f"{at}.post_attention_layernorm.weight": (hyper.hidden,),
            f"{at}.self_attn.q_norm.weight": (hyper.head_dim,),
            f"{at}.self_attn.k_norm.weight": (hyper.head_dim,),
            f"{at}.mlp.gate.weight": (hyper.experts, hyper.hidden),
        }
    if not hyper.tied_embeddings:
        found["lm_head.weight"] = (hyper.vocab, hyper.hidden)
    return found
