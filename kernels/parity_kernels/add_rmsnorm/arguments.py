"""Are these the tensors that add + RMSNorm is written for? Shared by its Triton and its CUDA form."""

from __future__ import annotations

import torch

from parity.errors import ShapeError, ValueRangeError
from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape

MAX_WIDTH = 16384  # a program holds a whole row


def checked_buffers(
    op: str,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor | None,
    out_sum: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (out, summed buffer), allocated where None; summed is x itself when there is no residual.

    Raises ShapeError, DtypeError, ValueRangeError.
    """
    require_shape(f"{op}: x", x, (None, None))
    shape = (x.shape[0], x.shape[1])
    require_shape(f"{op}: weight", weight, (shape[1],))
    out = torch.empty(shape, dtype=torch.bfloat16, device=x.device) if out is None else out
    if residual is None:
        if out_sum is not None:
            raise ShapeError(
                place=f"{op}: out_sum",
                expected="no buffer for a sum where nothing is added",
                found="out_sum given, residual None",
                next_step="Drop out_sum; the second result is x itself.",
            )
    elif out_sum is None:
        out_sum = torch.empty(shape, dtype=torch.bfloat16, device=x.device)
    for name, tensor in {"x": x, "residual": residual, "out": out, "out_sum": out_sum}.items():
        if tensor is not None:
            require_shape(f"{op}: {name}", tensor, shape)
            require_dtype(f"{op}: {name}", tensor, torch.bfloat16)
            require_dense(f"{op}: {name}", tensor, from_dim=1)
    require_dtype(f"{op}: weight", weight, torch.bfloat16)
    require_dense(f"{op}: weight", weight)
    require_same_device(op, x=x, residual=residual, weight=weight, out=out, out_sum=out_sum)
    if shape[1] > MAX_WIDTH:
        raise ShapeError(
            place=f"{op}: x",
            expected=f"D <= {MAX_WIDTH}",
            found=str(shape[1]),
            next_step="Rows are held whole; a wider one needs another kernel.",
        )
    if not eps > 0:
        raise ValueRangeError(
            place=f"{op}: eps", expected="> 0", found=str(eps), next_step="Pass the config's rms_norm_eps."
        )
    return out, x if out_sum is None else out_sum
