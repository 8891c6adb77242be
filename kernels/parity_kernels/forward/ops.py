"""Which code runs under which name? The table of ops and of launch arithmetic an engine is assembled from.

Both tables are copied per engine instance, so that any entry can be replaced in one engine and in no other. SEAMS is
all that a planted fault can replace, see docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from parity.faults import Seams
from parity_kernels.add_rmsnorm.launch import add_rmsnorm_launch
from parity_kernels.add_rmsnorm.op import add_rmsnorm
from parity_kernels.attention.launch import attention_decode_launch, attention_prefill_launch
from parity_kernels.attention.op import attention_decode, attention_prefill
from parity_kernels.combine.launch import combine_launch
from parity_kernels.combine.op import combine
from parity_kernels.embed.launch import embed_launch
from parity_kernels.embed.op import embed
from parity_kernels.forward.config import ModelConfig
from parity_kernels.grouped_gemm.launch import grouped_gemm_launch
from parity_kernels.grouped_gemm.op import grouped_gemm_bf16, grouped_gemm_fp8
from parity_kernels.kv_write.launch import kv_write_launch
from parity_kernels.kv_write.op import kv_write
from parity_kernels.linear.launch import linear_launch
from parity_kernels.linear.op import linear_bf16, linear_fp8
from parity_kernels.permute.launch import permute_launch
from parity_kernels.permute.op import permute
from parity_kernels.qk_norm_rope.launch import qk_norm_rope_launch
from parity_kernels.qk_norm_rope.op import qk_norm_rope
from parity_kernels.quantize_rows.launch import quantize_rows_launch
from parity_kernels.quantize_rows.op import quantize_rows
from parity_kernels.router.launch import router_launch
from parity_kernels.router.op import router
from parity_kernels.silu_mul.launch import silu_mul_launch, silu_mul_quant_launch
from parity_kernels.silu_mul.op import silu_mul, silu_mul_quant

Op = Callable[..., Any]

OPS: dict[str, Op] = {
    "embed": embed,
    "add_rmsnorm": add_rmsnorm,
    "quantize_rows": quantize_rows,
    "linear_fp8": linear_fp8,
    "linear_bf16": linear_bf16,
    "qk_norm_rope": qk_norm_rope,
    "kv_write": kv_write,
    "attention_prefill": attention_prefill,
    "attention_decode": attention_decode,
    "router": router,
    "permute": permute,
    "grouped_gemm_fp8": grouped_gemm_fp8,
    "grouped_gemm_bf16": grouped_gemm_bf16,
    "silu_mul_quant": silu_mul_quant,
    "silu_mul": silu_mul,
    "combine": combine,
}

# Every op's launch arithmetic. The engine calls `grouped_gemm` itself: its extent is data that the host does not see.
LAUNCHES: dict[str, Op] = {
    "embed": embed_launch,
    "add_rmsnorm": add_rmsnorm_launch,
    "quantize_rows": quantize_rows_launch,
    "linear": linear_launch,
    "qk_norm_rope": qk_norm_rope_launch,
    "kv_write": kv_write_launch,
    "attention_prefill": attention_prefill_launch,
    "attention_decode": attention_decode_launch,
    "router": router_launch,
    "permute": permute_launch,
    "grouped_gemm": grouped_gemm_launch,
    "silu_mul_quant": silu_mul_quant_launch,
    "silu_mul": silu_mul_launch,
    "combine": combine_launch,
}

# Ops that share a launch function; the others have one of their own name.
SHARED_LAUNCH = {"linear": ("linear_fp8", "linear_bf16"), "grouped_gemm": ()}

_PROJECTIONS = ("attn.q", "attn.k", "attn.v", "attn.out")
_GROUPED = ("moe.gate_up", "moe.down")

# Which calls of an op there are; `parity.faults.where().role` is one of them.
ROLES: dict[str, tuple[str, ...]] = {
    "embed": ("embed.out",),
    "add_rmsnorm": ("attn.norm", "mlp.norm", "final_norm"),
    "quantize_rows": ("attn.q", "attn.out", "moe.gate_up", "moe.down"),
    "linear_fp8": _PROJECTIONS,
    "linear_bf16": (*_PROJECTIONS, "logits"),
    "qk_norm_rope": ("attn.q_rope",),
    "kv_write": ("attn.context",),
    "attention_prefill": ("attn.context",),
    "attention_decode": ("attn.context",),
    "router": ("moe.router_logits",),
    "permute": ("moe.topk_ids",),
    "grouped_gemm_fp8": _GROUPED,
    "grouped_gemm_bf16": _GROUPED,
    "silu_mul_quant": ("moe.act",),
    "silu_mul": ("moe.act",),
    "combine": ("moe.experts",),
}

SETTINGS: dict[str, str] = {
    "zeroed_arena": "bool: buffers are zeroed when they are handed out; off (the default), they keep what was left",
    "suppress_tokens": "ids that generation never chooses, besides those of generation_config.json",
    "presence_penalty": "number taken off the logit of each id that generation has chosen before",
    "frequency_penalty": "number taken off that logit for each time it was chosen",
    "repetition_penalty": "divides positive logits of ids in the prompt or generated, multiplies negative ones",
    "temperature": "logits are divided by it; 0 takes the largest",
    "top_k": "ids kept, 0 for all",
    "top_p": "probability of the likeliest ids that are kept, 1 for all",
    "min_p": "least share of the likeliest id's probability that is kept, 0 for all",
}

SEAMS = Seams(
    family="qwen3_moe",
    ops=OPS,
    launches=LAUNCHES,
    roles=ROLES,
    settings=SETTINGS,
    hyper=tuple(field.name for field in fields(ModelConfig)),
)
