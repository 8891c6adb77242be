"""Which tensors must a checkpoint hold, of which shapes, and which of them may be FP8?"""

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


def dense(layer: int, part: str) -> str:
    """The name of a weight of a dense layer's MLP."""
    return f"model.layers.{layer}.mlp.{part}_proj.weight"


def head_norms(hyper: Hyper) -> tuple[str, ...]:
    """The norms on heads that the family has."""
    return () if hyper.family == "llama" else ("self_attn.q_norm", "self_attn.k_norm")


def weights(hyper: Hyper) -> int:
    """How many weights the two lists below hold, without making them: a configuration may claim a billion layers."""
    blocks = hyper.experts * len(EXPERT_PARTS) + 1 if hyper.experts else len(EXPERT_PARTS)
    each = len(PROJECTIONS) + blocks + 2 + len(head_norms(hyper))
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
        if not hyper.experts:
            found |= {dense(layer, part): shapes[part] for part in EXPERT_PARTS}
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
            **{f"{at}.{norm}.weight": (hyper.head_dim,) for norm in head_norms(hyper)},
        }
        if hyper.experts:
            found[f"{at}.mlp.gate.weight"] = (hyper.experts, hyper.hidden)
    if not hyper.tied_embeddings:
        found["lm_head.weight"] = (hyper.vocab, hyper.hidden)
    return found
