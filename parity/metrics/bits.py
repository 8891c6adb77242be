"""Which elements of two tensors have other bits? Tensors as the integers that their bits are."""

from __future__ import annotations

import torch

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtype by element size. Moved and compared as integers, a NaN keeps its payload, -0 is not +0, and dtypes
without kernels of their own (fp8) can be indexed."""


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bits of each element, any dtype of 1, 2, 4 or 8 bytes; a view, of a contiguous copy where it was not."""
    return tensor.contiguous().view(INTEGERS[tensor.element_size()])


def bits_differ(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mask of the elements whose bits differ; one shape, element size and device."""
    return as_bits(a) != as_bits(b)
