"""Which other path can an op take? Its plain torch reference with the kernel's own signature, and the CUDA kernel.

A sister needs no oracle: two ways to compute one op from one input may differ by rounding and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.errors import UsageError
from parity_kernels.add_rmsnorm import cuda
from parity_kernels.add_rmsnorm.reference import add_rmsnorm_reference
from parity_kernels.attention.reference import attention_reference
from parity_kernels.combine.reference import combine_reference
from parity_kernels.embed.reference import embed_reference
from parity_kernels.forward.ops import Op
from parity_kernels.grouped_gemm.reference import dequantize_blocks, dequantize_rows, grouped_gemm_reference
from parity_kernels.kv_write.reference import kv_write_reference
from parity_kernels.linear.reference import linear_bf16_reference, linear_fp8_reference
from parity_kernels.permute.op import Permutation
from parity_kernels.permute.reference import permute_reference
from parity_kernels.qk_norm_rope.reference import head_norm_reference, rope_reference
from parity_kernels.quantize_rows.reference import quantize_rows_reference
from parity_kernels.router.reference import router_reference
from parity_kernels.silu_mul.reference import silu_mul_reference

BF16, FP8, WIDE = torch.bfloat16, torch.float8_e4m3fn, torch.float64


def _into(out: torch.Tensor | None, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    value = value.to(dtype)
    return value if out is None else out.copy_(value)


def embed(ids: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    return _into(out, embed_reference(ids, weight), BF16)


def add_rmsnorm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, *, eps: float, out: Any = None,
    out_sum: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    normed, summed = add_rmsnorm_reference(x, residual, weight, eps=eps)
    return _into(out, normed, BF16), summed if residual is None else _into(out_sum, summed, BF16)


def quantize_rows(x: torch.Tensor, *, out_q: Any = None, out_s: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    scaled, scale = quantize_rows_reference(x, compute_dtype=torch.float32)
    return _into(out_q, scaled, FP8), _into(out_s, scale, torch.float32)


def linear_fp8(
    q: torch.Tensor, s: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, *, out: Any = None
) -> torch.Tensor:
    return _into(out, linear_fp8_reference(q, s, weight, scale), BF16)


def linear_bf16(
    x: torch.Tensor, weight: torch.Tensor, *, out_dtype: torch.dtype = BF16, out: Any = None
) -> torch.Tensor:
    return _into(out, linear_bf16_reference(x, weight), out_dtype)


def qk_norm_rope(
    q: torch.Tensor, k: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, positions: torch.Tensor,
    inv_freq: torch.Tensor, *, eps: float, q_norm_out: Any = None, k_norm_out: Any = None, out_q: Any = None,
    out_k: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    turned = []
    for x, weight, normed_out, out in ((q, q_weight, q_norm_out, out_q), (k, k_weight, k_norm_out, out_k)):
        normed = _into(normed_out, head_norm_reference(x, weight, eps=eps), BF16)
        turned.append(_into(out, rope_reference(normed, positions, inv_freq), BF16))
    return turned[0], turned[1]


def attention_prefill(
    q: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor, *, row_start: torch.Tensor, slots: torch.Tensor,
    first_position: torch.Tensor, max_rows: int, max_context: int, scale: float, out: Any = None,
) -> torch.Tensor:  # fmt: skip
    where: dict[str, Any] = dict(row_start=row_start, slots=slots, first_position=first_position, scale=scale)
    return _into(out, attention_reference(q, cache_k, cache_v, **where), q.dtype)


def attention_decode(
    q: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor, *, slots: torch.Tensor, positions: torch.Tensor,
    max_context: int, scale: float, out: Any = None,
) -> torch.Tensor:  # fmt: skip
    one_each = torch.arange(len(slots) + 1, device=q.device)
    where: dict[str, Any] = dict(row_start=one_each, slots=slots, first_position=positions, scale=scale)
    return _into(out, attention_reference(q, cache_k, cache_v, **where), q.dtype)


def router(
    x: torch.Tensor, weight: torch.Tensor, *, top_k: int, renormalize: bool, logits_out: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    ids, weights, logits = router_reference(x, weight, top_k=top_k, renormalize=renormalize)
    if logits_out is not None:
        logits_out.copy_(logits)
    return ids, weights.to(torch.float32)


def permute(ids: torch.Tensor, *, n_experts: int) -> Permutation:
    token, slot, offsets, slot_row = permute_reference(ids, n_experts=n_experts)
    return Permutation(row_token=token, row_slot=slot, expert_offsets=offsets, slot_row=slot_row)


def grouped_gemm_fp8(
    x_q: torch.Tensor, x_s: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, *, out: Any = None,
    launch: Any = None, **where: Any,
) -> torch.Tensor:  # fmt: skip
    x, dense = dequantize_rows(x_q, x_s, WIDE), dequantize_blocks(weight, weight_scale, WIDE)
    return _into(out, grouped_gemm_reference(x, dense, **where), BF16)


def grouped_gemm_bf16(
    x: torch.Tensor, weight: torch.Tensor, *, out: Any = None, launch: Any = None, **where: Any
) -> torch.Tensor:
    return _into(out, grouped_gemm_reference(x, weight, **where), BF16)


def silu_mul(gate_up: torch.Tensor, *, out: Any = None) -> torch.Tensor:
    return _into(out, silu_mul_reference(gate_up), BF16)


def silu_mul_quant(
    gate_up: torch.Tensor, *, act_out: Any = None, out_q: Any = None, out_s: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    return quantize_rows(silu_mul(gate_up, out=act_out), out_q=out_q, out_s=out_s)


def combine(down: torch.Tensor, slot_row: torch.Tensor, weights: torch.Tensor, *, out: Any = None) -> torch.Tensor:
    return _into(out, combine_reference(down, slot_row, weights), BF16)


REFERENCES: dict[str, Op] = {
    "embed": embed,
    "add_rmsnorm": add_rmsnorm,
    "quantize_rows": quantize_rows,
    "linear_fp8": linear_fp8,
    "linear_bf16": linear_bf16,
    "qk_norm_rope": qk_norm_rope,
    "kv_write": kv_write_reference,
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


def variants() -> dict[str, dict[str, Op]]:
    """Paths of each op besides its kernel: `reference` for all, `cuda` where its library can be built and run."""
    table = {op: {"reference": path} for op, path in REFERENCES.items()}
    if cuda.is_usable():
        table["add_rmsnorm"]["cuda"] = cuda.add_rmsnorm_cuda
    return table


def chosen(ops: Mapping[str, Op], variant: Mapping[str, str]) -> dict[str, Op]:
    """`ops` with the paths that `variant` names in place of their own.

    Raises UsageError for an op or a path that does not exist.
    """
    table = variants()
    for op, path in variant.items():
        if path not in table.get(op, {}):
            known = table.get(op)
            raise UsageError(
                place=f"variant of {op}",
                expected="one of " + ", ".join(sorted(known if known else table)),
                found=repr(path) if known else repr(op),
                next_step="See describe().variants.",
            )
    return {**ops, **{op: table[op][path] for op, path in variant.items()}}
