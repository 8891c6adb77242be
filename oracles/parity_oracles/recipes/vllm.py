"""Where does vLLM round in 16 bits, and what does it carry on unrounded? The recipe `bf16_vllm`.

| operation | rounds |
|---|---|
| a norm | the normed row before its gain, and the product |
| a norm that adds the residual first | takes the sum before it is rounded to be kept as the residual |
| rope | cosines and sines; the sum of two products once |
| attention | a fused core: as in `bf16` |
| router | its logits; the routing weights |
| experts, one kernel | silu(gate) * up, of unrounded gate and up; the weighted sum of unrounded rows, at its end |
| LM head | its logits |

Source, of version 0.32: vllm/ir/ops/layernorm.py; model_executor/layers/rotary_embedding/base.py (`cos_sin_cache` in
the dtype of the queries), fused_moe/router/cpu_router.py; csrc/cpu/pos_encoding.cpp and cpu_fused_moe.cpp of the public
source. The kernels for GPUs round where these do and in more places (gate and up, an expert's row before it is added,
the residual before its norm, each product of rope): orders that go stepwise do the same. Both are vLLM in 16 bits.
"""

from __future__ import annotations

INSIDE = frozenset({"moe.gate", "moe.up", "moe.act"})
"""Stages inside the kernel of the experts."""

CARRIED = frozenset({"resid.mid", "resid.out", "moe.down"})
"""Stages that are shown rounded, and that the next operation of the same kernel takes unrounded."""

TAKES = frozenset({"attn.norm", "mlp.norm", "final_norm", "moe.experts"})
"""Stages that take them so."""
