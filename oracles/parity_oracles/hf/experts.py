"""Where are the experts' own rows? HF's eager expert loop, one stage at a time, with probe points between.

Experts are fused three-dimensional parameters without modules. HF's loop finishes one expert before the next; this one
finishes one stage of all experts before the next stage, calling the same operations on the same rows, so that every
row's bits are HF's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from parity.records import Rows
from parity_oracles.hf.taps import EXPERTS


def tapped_experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """hidden_states: [T, D]; top_k_index: [T, S] int64; top_k_weights: [T, S]. Returns [T, D], as HF's loop.

    Rows are in HF's order: by expert, within it by slot, then by token.
    """
    taps, layer = module.parity_taps
    gate_up, down = module.gate_up_proj, module.down_proj
    tokens = len(top_k_index)
    flat = top_k_index.T.reshape(-1)
    order = flat.argsort(stable=True)
    token, slot, expert = order % tokens, order // tokens, flat[order]
    offsets = [0, *flat.bincount(minlength=len(gate_up)).cumsum(0).tolist()]
    spans = [(index, a, b) for index, (a, b) in enumerate(pairwise(offsets)) if b > a]
    of = taps.rows
    rows = Rows(of.request[token], of.position[token], slot.int().numpy(), expert.int().numpy())
    about = {"rows": rows, "geometry": {"expert_offsets": offsets}}

    both = torch.cat([linear(hidden_states[token[a:b]], gate_up[index]) for index, a, b in spans])
    gate, up = both.chunk(2, dim=-1)
    gate, up = taps.put("moe.gate", layer, gate, **about), taps.put("moe.up", layer, up, **about)
    act = taps.put("moe.act", layer, module.act_fn(gate) * up, **about)
    rows_down = torch.cat([linear(act[a:b], down[index]) for index, a, b in spans])
    rows_down = taps.put("moe.down", layer, rows_down, **about)

    total = torch.zeros_like(hidden_states)
    for _, a, b in spans:
        weighted = rows_down[a:b] * top_k_weights[token[a:b], slot[a:b], None]
        total.index_add_(0, token[a:b], weighted.to(total.dtype))
    return total


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, tapped_experts)
