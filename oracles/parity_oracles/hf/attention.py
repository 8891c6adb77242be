"""Where are the rotated queries and keys, and the attention core's result? HF's eager core with probe points.

transformers offers no hook there. The keys are seen where they enter the KV cache, the queries and the context in a
registered attention function, which calls the model's own `eager_attention_forward`. The mask function is registered
under the same name: without it the model is silently not causal.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from parity_oracles.hf.taps import ATTENTION, Taps


def tapped_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """query: [1, H, T, K] after rope; key, value: [1, G, C, K] from the cache. Returns [1, T, H, K], as HF's core."""
    taps, layer = module.parity_taps
    shown = query.transpose(1, 2)
    back = taps.put("attn.q_rope", layer, shown)
    if back is not shown:
        query = back.transpose(1, 2)
    core = sys.modules[type(module).__module__].eager_attention_forward
    context, weights = core(module, query, key, value, attention_mask, **kwargs)
    return taps.put("attn.context", layer, context), weights


class TappedCache(DynamicCache):
    """HF's cache; keys pass the probe on their way in, so that a graft is what this and later steps attend to."""

    def __init__(self, taps: Taps, config: Any) -> None:
        super().__init__(config=config)
        self._taps = taps

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shown = key_states.transpose(1, 2)
        back = self._taps.put("attn.k_rope", layer_idx, shown)
        if back is not shown:
            key_states = back.transpose(1, 2)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


AttentionInterface.register(ATTENTION, tapped_attention)
AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
