"""What do attention's scores see: q and k of which norm, at which position?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity.errors import ShapeError, ValueRangeError
from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape
from parity_kernels.launch import Launch, LaunchFunction, sized
from parity_kernels.qk_norm_rope.kernel import qk_norm_rope_kernel
from parity_kernels.qk_norm_rope.launch import qk_norm_rope_launch

# Any: pyright reads a kernel's own signature, not the launcher's.
_qk_norm_rope: Any = qk_norm_rope_kernel


def qk_norm_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    positions: torch.Tensor,
    inv_freq: torch.Tensor,
    *,
    eps: float,
    q_norm_out: torch.Tensor | None = None,
    k_norm_out: torch.Tensor | None = None,
    out_q: torch.Tensor | None = None,
    out_k: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm of every head, rounded to bf16, then rotate-half rope, rounded to bf16.

    q: [T, H, K], k: [T, G, K] bf16, K dense and even, token and head strides free (slices of a fused projection); T may
    be 0. q_weight, k_weight: [K] bf16. positions: [T] int32 or int64, absolute, < 2^24. inv_freq: [K/2] fp32.
    eps: dimensionless, > 0. q_norm_out [T, H, K], k_norm_out [T, G, K]: bf16 or None; probes of the normed heads, whose
    stores are not compiled when None. out_q, out_k: bf16 or None (allocated); may be q and k themselves.
    Returns (q, k) rotated. Norm, angle = fp32(position) * inv_freq, cos, sin and the rotation are fp32.
    Raises ShapeError, DtypeError, ValueRangeError before anything is launched.
    Source: Zhang & Sennrich 2019, arXiv 1910.07467; Su et al. 2021, arXiv 2104.09864; halves paired as in HF.
    """
    op = "qk_norm_rope"
    require_shape(f"{op}: q", q, (None, None, None))
    n_tokens, n_heads, head_dim = q.shape
    require_shape(f"{op}: k", k, (n_tokens, None, head_dim))
    n_kv_heads = k.shape[1]
    if head_dim % 2:
        raise ShapeError(
            place=f"{op}: q", expected="an even head dim", found=str(head_dim), next_step="Rope pairs halves of a head."
        )
    if not eps > 0:
        raise ValueRangeError(
            place=f"{op}: eps", expected="> 0", found=str(eps), next_step="Pass the config's rms_norm_eps."
        )
    # Not empty_like: of a strided slice it would not be dense.
    out_q = q.new_empty((n_tokens, n_heads, head_dim)) if out_q is None else out_q
    out_k = k.new_empty((n_tokens, n_kv_heads, head_dim)) if out_k is None else out_k
    heads = {
        "q": (q, n_heads), "q_norm_out": (q_norm_out, n_heads), "out_q": (out_q, n_heads),
        "k": (k, n_kv_heads), "k_norm_out": (k_norm_out, n_kv_heads), "out_k": (out_k, n_kv_heads),
    }  # fmt: skip
    for name, (tensor, count) in heads.items():
        if tensor is not None:
            require_shape(f"{op}: {name}", tensor, (n_tokens, count, head_dim))
            require_dtype(f"{op}: {name}", tensor, torch.bfloat16)
            require_dense(f"{op}: {name}", tensor, from_dim=2)
    for name, vector, extent, dtypes in (
        ("q_weight", q_weight, head_dim, (torch.bfloat16,)),
        ("k_weight", k_weight, head_dim, (torch.bfloat16,)),
        ("inv_freq", inv_freq, head_dim // 2, (torch.float32,)),
        ("positions", positions, n_tokens, (torch.int32, torch.int64)),
    ):
        require_shape(f"{op}: {name}", vector, (extent,))
        require_dtype(f"{op}: {name}", vector, *dtypes)
        require_dense(f"{op}: {name}", vector)
    require_same_device(
        op, q=q, k=k, q_weight=q_weight, k_weight=k_weight, positions=positions, inv_freq=inv_freq,
        q_norm_out=q_norm_out, k_norm_out=k_norm_out, out_q=out_q, out_k=out_k,
    )  # fmt: skip
    launch = sized(
        launch, qk_norm_rope_launch, n_tokens=n_tokens, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim
    )
    if n_tokens and all(launch.grid):
        strides = [
            stride
            for tensor in (q, k, q_norm_out, k_norm_out, out_q, out_k)
            for stride in ((0, 0) if tensor is None else tensor.stride()[:2])
        ]
        _qk_norm_rope[launch.grid](
            q,
            k,
            q_weight,
            k_weight,
            positions,
            inv_freq,
            q_norm_out,
            k_norm_out,
            out_q,
            out_k,
            n_tokens,
            n_heads,
            n_kv_heads,
            *strides,
            eps,
            K=head_dim,
            BLOCK_M=launch.block["m"],
            BLOCK_J=launch.block["j"],
            num_warps=4,
        )
    return out_q, out_k
