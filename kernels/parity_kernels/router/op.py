"""Which experts does a token go to, and with what weights?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity.errors import ShapeError
from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape
from parity_kernels.launch import Launch, LaunchFunction, next_power_of_2, sized
from parity_kernels.router.kernel import router_kernel
from parity_kernels.router.launch import router_launch

# A launch is no Python call to a type checker.
_router: Any = router_kernel

MAX_EXPERTS = 1024  # a program holds a whole row of padded logits


def router(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    top_k: int,
    renormalize: bool,
    logits_out: torch.Tensor | None = None,
    out_ids: torch.Tensor | None = None,
    out_weights: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits x weight^T, softmax over all experts, the top_k largest in descending order, ties to the lower id.

    x: [T, D] bf16, D dense, rows may be strided; T may be 0. weight: [E, D] bf16, contiguous; 1 <= top_k <= E <= 1024.
    renormalize: divide the weights of a token by their sum (`norm_topk_prob`).
    logits_out: [T, E] fp32 contiguous or None; a probe, its store is not compiled when None.
    Returns (ids [T, S] int32, weights [T, S] fp32). The dot accumulates in fp32 over D in steps of the tile; softmax,
    exp and sums are fp32; nothing is rounded to bf16. A NaN logit ranks first (as in torch.topk) and makes its
    token's weights NaN; ids are distinct and within 0 .. E-1 whatever the logits hold.
    Raises ShapeError, DtypeError before anything is launched. Source: HF Qwen3MoeTopKRouter (softmax before top-k).
    """
    require_shape("router: x", x, (None, None))
    n_tokens, hidden = x.shape
    require_shape("router: weight", weight, (None, hidden))
    n_experts = weight.shape[0]
    require_dtype("router: x", x, torch.bfloat16)
    require_dtype("router: weight", weight, torch.bfloat16)
    require_dense("router: x", x, from_dim=1)
    require_dense("router: weight", weight)
    if not 1 <= top_k <= n_experts <= MAX_EXPERTS:
        raise ShapeError(
            place="router: top_k",
            expected=f"1 <= top_k <= experts <= {MAX_EXPERTS}",
            found=f"top_k {top_k}, {n_experts} experts",
            next_step="Check the config's num_experts_per_tok and num_experts.",
        )
    if out_ids is None:
        out_ids = torch.empty((n_tokens, top_k), dtype=torch.int32, device=x.device)
    if out_weights is None:
        out_weights = torch.empty((n_tokens, top_k), dtype=torch.float32, device=x.device)
    for name, buffer, columns, dtype in (
        ("out_ids", out_ids, top_k, torch.int32),
        ("out_weights", out_weights, top_k, torch.float32),
        ("logits_out", logits_out, n_experts, torch.float32),
    ):
        if buffer is not None:
            require_shape(f"router: {name}", buffer, (n_tokens, columns))
            require_dtype(f"router: {name}", buffer, dtype)
            require_dense(f"router: {name}", buffer)
    require_same_device("router", x=x, weight=weight, out_ids=out_ids, out_weights=out_weights, logits_out=logits_out)
    if n_tokens == 0:
        return out_ids, out_weights
    launch = sized(launch, router_launch, n_tokens=n_tokens, n_experts=n_experts, hidden=hidden)
    _router[launch.grid](
        x,
        weight,
        out_ids,
        out_weights,
        logits_out,
        n_tokens,
        x.stride(0),
        D=hidden,
        E=n_experts,
        EP=launch.block["e"],
        S=top_k,
        SP=next_power_of_2(max(top_k, 1)),
        RENORMALIZE=renormalize,
        BLOCK_T=launch.block["t"],
        BLOCK_D=launch.block["d"],
        num_warps=4 if n_experts <= 128 else 8,
        num_stages=2,
    )
    return out_ids, out_weights
