"""What does the checkpoint hold, and which operation must read each tensor of it? For an audit of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from parity.audit.tensors import StoredTensor, TensorProbe, probe_tensor
from parity_oracles.checkpoint import layout
from parity_oracles.checkpoint.checkpoint import SCALE, Checkpoint
from parity_oracles.checkpoint.hyper import Hyper

Place = tuple[int | None, str]


def stored_tensors(
    checkpoint: Checkpoint, *, rounded: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None
) -> tuple[StoredTensor, ...]:
    """Every tensor of `checkpoint`, read and dequantized one at a time, with the operations it belongs to.

    A head that a tied model stores all the same is the embedding, as reading the checkpoint has verified: it has no
    entry of its own. rounded: more forms of a matrix whose rows are whole blocks of 32 values, by name.
    """
    return tuple(
        tensor
        for name, where in _places(checkpoint.hyper).items()
        for tensor in _stored(checkpoint, name, where, rounded or {})
    )


def _places(hyper: Hyper) -> dict[str, tuple[tuple[Place, ...], int | None]]:
    """Each weight's operations and expert. Stages by their names in parity.stages."""
    head: Place = (None, "logits")
    embed: tuple[Place, ...] = ((None, "embed.out"), *((head,) if hyper.tied_embeddings else ()))
    found: dict[str, tuple[tuple[Place, ...], int | None]] = {"model.embed_tokens.weight": (embed, None)}
    for layer in range(hyper.layers):
        at = f"model.layers.{layer}"
        norms = [(name, name.replace("self_attn", "attn")) for name in layout.head_norms(hyper)]
        router = [("mlp.gate", "moe.router_logits")] if hyper.experts else []
        block = [("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm"), *norms, *router]
        for name, stage in block:
            found[f"{at}.{name}.weight"] = (((layer, stage),), None)
        for part in layout.PROJECTIONS:
            stage = "attn.out" if part == "o" else f"attn.{part}"
            found[layout.projection(layer, part)] = (((layer, stage),), None)
        for part in layout.EXPERT_PARTS if not hyper.experts else ():
            found[layout.dense(layer, part)] = (((layer, f"mlp.{part}"),), None)
        for index in range(hyper.experts):
            for part in layout.EXPERT_PARTS:
                found[layout.expert(layer, index, part)] = (((layer, f"moe.{part}"),), index)
    found["model.norm.weight"] = (((None, "final_norm"),), None)
    if not hyper.tied_embeddings:
        found["lm_head.weight"] = ((head,), None)
    return found


def _stored(
    checkpoint: Checkpoint,
    name: str,
    where: tuple[tuple[Place, ...], int | None],
    rounded: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
) -> Iterator[StoredTensor]:
    places, expert = where
    values = checkpoint.weight(name)
    forms: dict[str, TensorProbe] = {"values": probe_tensor(values)}
    narrow = values.to(torch.bfloat16)
    forms["bfloat16"] = forms["values"] if torch.equal(narrow.float(), values) else probe_tensor(narrow)
    if values.dim() == 2 and values.shape[1] % 32 == 0:
        # Plus 0: whole numbers times a scale have no zero of another sign.
        forms |= {form: probe_tensor(put(values) + 0.0) for form, put in rounded.items()}
    if checkpoint.is_fp8(name):
        codes, scales = checkpoint.quantized(name)
        forms["codes"] = probe_tensor(codes)
        yield StoredTensor(name + SCALE, places, expert, {"values": probe_tensor(scales)}, scales=name)
    yield StoredTensor(name, places, expert, forms)
