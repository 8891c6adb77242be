"""Is an op's tensor what the kernel was written for? Checks that raise before anything is launched."""

from __future__ import annotations

import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError


def require_shape(place: str, tensor: torch.Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise ShapeError unless `tensor` has `shape`; None stands for any extent."""
    if tensor.dim() != len(shape) or any(
        want is not None and have != want for have, want in zip(tensor.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if extent is None else str(extent) for extent in shape)
        raise ShapeError(
            place=place,
            expected=f"shape [{wanted}]",
            found=str(list(tensor.shape)),
            next_step="Pass the tensor that the op's docstring names, in its axis order.",
        )


def require_dtype(place: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    """Raise DtypeError unless the tensor has one of `dtypes`."""
    if tensor.dtype not in dtypes:
        raise DtypeError(
            place=place,
            expected=" or ".join(str(dtype) for dtype in dtypes),
            found=str(tensor.dtype),
            next_step="Convert on purpose, where the recipe rounds; an op never converts for you.",
        )


def require_dense(place: str, tensor: torch.Tensor, *, from_dim: int = 0) -> None:
    """Raise ShapeError unless the dims from `from_dim` on lie in memory without gaps and in order.

    Earlier dims may have any stride. Dims of extent 1, and tensors without elements, have no say.
    """
    step = 1
    for dim in range(tensor.dim() - 1, from_dim - 1, -1):
        if tensor.numel() and tensor.shape[dim] != 1 and tensor.stride(dim) != step:
            raise ShapeError(
                place=place,
                expected=f"dims {from_dim}..{tensor.dim() - 1} contiguous",
                found=f"shape {list(tensor.shape)} with strides {list(tensor.stride())}",
                next_step="Call .contiguous(), or pass a buffer of the op's own layout.",
            )
        step *= tensor.shape[dim]


def require_same_device(op: str, **tensors: torch.Tensor | None) -> None:
    """Raise ShapeError when the tensors given do not all live on one device."""
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        raise ShapeError(
            place=op,
            expected="all tensors on one device",
            found=", ".join(f"{name} on {device}" for name, device in devices.items()),
            next_step="Move them to the device the engine runs on.",
        )


def require_within(place: str, tensor: torch.Tensor, low: int, high: int) -> None:
    """Raise ValueRangeError unless every element of a CPU tensor is in [low, high].

    On a CUDA device nothing is looked at: reading it would wait for the device. Kernels mask such elements there.
    """
    if tensor.device.type == "cpu" and tensor.numel():
        smallest, largest = (int(bound) for bound in torch.aminmax(tensor))
        if smallest < low or largest > high:
            raise ValueRangeError(
                place=place,
                expected=f"values in [{low}, {high}]",
                found=f"values in [{smallest}, {largest}]",
                next_step="Check the step's positions, slots and expert ids.",
            )
