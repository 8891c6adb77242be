"""Which device do the op tests run on? The same tests run interpreted on the CPU and compiled on a CUDA device."""

from __future__ import annotations

# First of all imports: decides TRITON_INTERPRET before anything imports triton.
import parity_kernels.backend  # noqa: F401  isort: skip

from collections.abc import Callable

import pytest
import torch

from parity_kernels.backend import default_device, interpreted


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where a test puts its tensors."""
    return default_device()


@pytest.fixture(scope="session")
def runs_interpreted() -> bool:
    """True on the CPU, where a kernel may be a little slower and a size a little smaller."""
    return interpreted()


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded CPU generator: draw on the CPU, then move, so that both backends test the same numbers."""
    return torch.Generator().manual_seed(20240229)


@pytest.fixture(scope="session")
def beyond() -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], int]:
    """Counts the elements of `got` that are further from `want` than `bound` allows; NaN on any side counts."""

    def count(got: torch.Tensor, want: torch.Tensor, bound: torch.Tensor) -> int:
        assert got.shape == want.shape == bound.shape
        error = (got.cpu().double() - want.cpu().double()).abs()
        return int((~(error <= bound.cpu().double())).sum())

    return count
