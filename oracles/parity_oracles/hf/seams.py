"""Where does HF's forward pass show what no module holds? HF's own arithmetic with words for a stage map.

The attention core's query is shown in a registered attention function, which calls HF's own; its key where it enters
the KV cache, so that a graft is what later steps attend to as well; an expert's rows in HF's grouped matrix products,
which compile into one graph (the eager loop over experts cannot). Unwatched, these are HF's own operations and no more.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache
from transformers.integrations import moe
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from parity_oracles.torch_module.instrument import Put
from parity_oracles.torch_module.showing import SHOWN, show

ATTENTION = {"eager": "parity_shown_eager", "sdpa": "parity_shown_sdpa"}
EXPERTS = "parity_shown_grouped_mm"


def eager_attention(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any]:
    """HF's eager core; query: [1, H, T, K] after rope. Returns [1, T, H, K] and the probabilities."""
    core = sys.modules[type(module).__module__].eager_attention_forward
    return core(module, show(module, "query", query), *args, **kwargs)


def sdpa_attention(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """HF's fused core, with the same query."""
    return sdpa_attention_forward(module, show(module, "query", query), *args, **kwargs)


class _ShowsKeys:
    """Keys are shown on their way into the cache; attentions: the model's attention modules, by layer."""

    attentions: list[Any]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key_states = show(self.attentions[layer_idx], "key", key_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


class ShownDynamicCache(_ShowsKeys, DynamicCache):
    """HF's growing cache."""


class ShownStaticCache(_ShowsKeys, StaticCache):
    """HF's cache of one size at one address, which compiled graphs write into."""


def grouped_experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """hidden_states: [T, D]; top_k_index, top_k_weights: [T, S]. Returns [T, D], as HF's `grouped_mm` experts do.

    Rows are shown by token, then slot; HF sorts them by expert. Masks for absent experts are left out: all are here.
    """
    if getattr(module, SHOWN, None) is None:
        return moe.grouped_mm_experts_forward(module, hidden_states, top_k_index, top_k_weights)
    slots, experts = top_k_index.shape[-1], top_k_index.reshape(-1)
    by_expert, order = torch.sort(experts)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.shape[0], device=order.device)
    counted = by_expert.float() if by_expert.device.type == "cpu" else by_expert.int()
    per_expert = torch.histc(counted, bins=module.num_experts, min=0, max=module.num_experts - 1)
    offsets = torch.cumsum(per_expert, dim=0, dtype=torch.int32)

    def shown(word: str, rows: torch.Tensor) -> torch.Tensor:
        return show(module, word, rows[place])[order]

    def product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return moe._grouped_linear(rows, weight, offsets, bias=None, is_transposed=module.is_transposed)

    both = shown("gate_up", product(hidden_states[order // slots], module.gate_up_proj))
    act = shown("act", module._apply_gate(both))
    down = shown("down", product(act, module.down_proj))
    weighted = down * top_k_weights.reshape(-1)[order].unsqueeze(-1)
    total = weighted[place].view(-1, slots, hidden_states.shape[-1]).sum(dim=1)
    return total.to(hidden_states.dtype)


def rewrite_routing(router: Any) -> Any:
    """What follows from a replaced (logits, weights, ids) of a qwen3_moe router: as HF computes it from the logits."""

    def rewrite(values: tuple[torch.Tensor, ...], puts: dict[int, Put]) -> tuple[torch.Tensor, ...]:
        logits = puts[0](values[0])
        shares = logits.softmax(-1, dtype=torch.float)
        ids = puts[2](torch.topk(shares, router.top_k, dim=-1).indices)
        weights = shares.gather(-1, ids)
        if router.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, puts[1](weights.to(logits.dtype)), ids

    return rewrite


for _attention, _function in (("eager", eager_attention), ("sdpa", sdpa_attention)):
    AttentionInterface.register(ATTENTION[_attention], _function)
    AttentionMaskInterface.register(ATTENTION[_attention], ALL_MASK_ATTENTION_FUNCTIONS[_attention])
moe.ALL_EXPERTS_FUNCTIONS.register(EXPERTS, grouped_experts)
