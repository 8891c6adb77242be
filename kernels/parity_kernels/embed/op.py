"""Which vectors do the tokens of a step stand for?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape, require_within
from parity_kernels.embed.kernel import embed_kernel
from parity_kernels.embed.launch import embed_launch
from parity_kernels.launch import Launch, LaunchFunction, sized

# Any: pyright reads a kernel's own signature, not the launcher's.
_embed: Any = embed_kernel


def embed(
    ids: torch.Tensor,
    weight: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> torch.Tensor:
    """out[t] = weight[ids[t]].

    ids: [T] int32 or int64, dense; T may be 0. weight: [V, D] bf16, rows may be strided, D dense.
    out: [T, D] bf16 or None (allocated). Returns it; a copy, nothing is rounded.
    Raises ShapeError, DtypeError before anything is launched; ValueRangeError on the CPU for an id outside 0 .. V-1
    (on a CUDA device such an id gives a row of zeros: looking would wait for the device).
    """
    require_shape("embed: ids", ids, (None,))
    require_shape("embed: weight", weight, (None, None))
    require_dtype("embed: ids", ids, torch.int32, torch.int64)
    require_dtype("embed: weight", weight, torch.bfloat16)
    require_dense("embed: ids", ids)
    require_dense("embed: weight", weight, from_dim=1)
    n_tokens, n_cols = ids.shape[0], weight.shape[1]
    require_within("embed: ids", ids, 0, weight.shape[0] - 1)
    if out is None:
        out = torch.empty((n_tokens, n_cols), dtype=torch.bfloat16, device=ids.device)
    require_shape("embed: out", out, (n_tokens, n_cols))
    require_dtype("embed: out", out, torch.bfloat16)
    require_dense("embed: out", out, from_dim=1)
    require_same_device("embed", ids=ids, weight=weight, out=out)
    launch = sized(launch, embed_launch, n_tokens=n_tokens, n_cols=n_cols)
    if out.numel() and all(launch.grid):
        _embed[launch.grid](
            ids,
            weight,
            out,
            n_tokens,
            weight.shape[0],
            n_cols,
            weight.stride(0),
            out.stride(0),
            BLOCK_M=launch.block["m"],
            BLOCK_D=launch.block["d"],
            num_warps=4,
        )
    return out
