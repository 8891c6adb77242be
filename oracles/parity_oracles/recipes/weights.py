"""Which weights does a stage use? A checkpoint's tensors by what they are for."""

from __future__ import annotations

from functools import lru_cache

import torch

from parity_oracles.checkpoint import Checkpoint, layout
from parity_oracles.recipes.linear import Matrix

ATTENTION = {"attn.q": "q", "attn.k": "k", "attn.v": "v", "attn.out": "o"}
DENSE = {"mlp.gate": "gate", "mlp.up": "up", "mlp.down": "down"}
EXPERTS = {"moe.gate": "gate", "moe.up": "up", "moe.down": "down"}


class Weights:
    """The weights of a checkpoint for the recipe emulation; each is read when first used and then kept.

    Norm vectors come in fp32 (a BF16 checkpoint's values exactly); a rounding arithmetic rounds the rest itself.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.matrix = lru_cache(maxsize=None)(self._matrix)
        self.vector = lru_cache(maxsize=None)(checkpoint.weight)

    def projection(self, layer: int, part: str) -> Matrix:
        """An attention projection: `q`, `k`, `v` or `o`."""
        return self.matrix(layout.projection(layer, part))

    def expert(self, layer: int, index: int, part: str) -> Matrix:
        """One expert's `gate`, `up` or `down`."""
        return self.matrix(layout.expert(layer, index, part))

    def dense(self, layer: int, part: str) -> Matrix:
        """`gate`, `up` or `down` of a dense layer's MLP."""
        return self.matrix(layout.dense(layer, part))

    def norm(self, layer: int, which: str) -> torch.Tensor:
        """`input_layernorm`, `post_attention_layernorm`, `self_attn.q_norm` or `self_attn.k_norm`; fp32."""
        return self.vector(f"model.layers.{layer}.{which}.weight")

    def final_norm(self) -> torch.Tensor:
        """[D] fp32."""
        return self.vector("model.norm.weight")

    def router(self, layer: int) -> Matrix:
        """[E, D]."""
        return self.matrix(f"model.layers.{layer}.mlp.gate.weight")

    def embedding(self) -> Matrix:
        """[V, D]."""
        return self.matrix("model.embed_tokens.weight")

    def head(self) -> Matrix:
        """[V, D]; the embedding when tied."""
        return self.embedding() if self.checkpoint.hyper.tied_embeddings else self.matrix("lm_head.weight")

    def of_stage(self, stage: str, layer: int | None) -> torch.Tensor | None:
        """The matrix of a linear stage as exact fp32, [N, K], or [E, N, K] where each expert has its own, and the table
        of the embedding, [V, D]; else None."""
        if stage == "logits":
            return self.head().exact32
        if stage == "embed.out":
            return self.embedding().exact32
        if layer is None:
            return None
        if stage in ATTENTION:
            return self.projection(layer, ATTENTION[stage]).exact32
        if stage in DENSE:
            return self.dense(layer, DENSE[stage]).exact32
        if stage == "moe.router_logits":
            return self.router(layer).exact32
        if stage in EXPERTS:
            count = self.checkpoint.hyper.experts
            return torch.stack([self.expert(layer, index, EXPERTS[stage]).exact32 for index in range(count)])
        return None

    def _matrix(self, name: str) -> Matrix:
        if self.checkpoint.is_fp8(name):
            return Matrix(*self.checkpoint.quantized(name))
        return Matrix(self.checkpoint.weight(name))
