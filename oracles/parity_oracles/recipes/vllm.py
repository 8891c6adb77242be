"""Where does vLLM round in 16 bits, and what does it carry on unrounded? `bf16_vllm` and `bf16_vllm_cuda`.

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
source. The kernels for GPUs round in more places (gate and up, an expert's row before it is added, each product of
rope): orders that go stepwise do the same. Both are vLLM in 16 bits.

Norms are another matter, since every order of `bf16_vllm` rounds them twice. vLLM says which implementation of a norm
is in force (`kernel_config.ir_op_priority`); where it is `vllm_c`, its kernels for GPUs, the recipe is
`bf16_vllm_cuda`:

| operation | rounds |
|---|---|
| a norm | the product with its gain, once, from fp32 |
| a norm that adds the residual first | the sum, to BF16; the norm is taken of that |

Source: `rms_norm_kernel` and `fused_add_rms_norm_kernel` of csrc/libtorch_stable/layernorm_kernels.cu; issue 52104 and
pull request 52151 of vllm-project/vllm say the same of the sum. Seen in 0.26 on an H200: of bitwise equal inputs the
first norm is 0.00166 away from exact arithmetic in rel_l2, which is what one rounding to BF16 makes; two make 0.0023.
Versions differ: 0.19 rounded before the gain, 0.20 no longer (issue 42325), and pull request 42379 put it back for some
versions after it. By the floor of this recipe those exceed in their norms: they round elsewhere than it says.
"""

from __future__ import annotations

INSIDE = frozenset({"moe.gate", "moe.up", "moe.act"})
"""Stages inside the kernel of the experts."""

CARRIED = frozenset({"resid.mid", "resid.out", "moe.down"})
"""Stages that are shown rounded, and that the next operation of the same kernel takes unrounded."""

CARRIED_ON_GPU = frozenset({"moe.down"})
"""The same of the kernels for GPUs: the residual is rounded before its norm."""

TAKES = frozenset({"attn.norm", "mlp.norm", "final_norm", "moe.experts"})
"""Stages that take them so."""
