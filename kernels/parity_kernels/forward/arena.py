"""Where do a forward pass's buffers come from? One named allocation each, reused by every layer and every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

TAIL = 1 << 16
"""Bytes behind a poisoned buffer that carry the pattern too: a tile of 128 rows of 256 bf16 columns."""


class Arena:
    """Named buffers that live as long as the engine.

    Like a serving engine's workspace, a buffer keeps what the last user left in it unless `zeroed`: a kernel that does
    not write all of its output then shows rows of an earlier layer, chunk or request.
    `poison`, while it is set, stands in for both: see `poisoned_memory`.
    """

    def __init__(self, device: torch.device, *, zeroed: bool = False) -> None:
        self.device = device
        self.zeroed = zeroed
        self.poison: int | None = None
        self.filled = 0
        self._storage: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The buffer called `name` as a contiguous tensor of `shape` and `dtype`, grown when it was smaller."""
        size = prod(shape) * dtype.itemsize
        storage = self._storage.get(name)
        least = max(size, 1) + (TAIL if self.poison is not None else 0)
        if storage is None or storage.numel() < least:
            storage = self._storage[name] = torch.empty(least, dtype=torch.uint8, device=self.device)
        if self.poison is not None:
            storage.fill_(self.poison)
            self.filled += storage.numel()
        elif self.zeroed:
            storage[:size].zero_()
        return storage[:size].view(dtype).view(shape)

    def fill(self, pattern: int) -> None:
        """Overwrite every byte of every buffer with `pattern` (0..255), to expose reads of stale memory."""
        for storage in self._storage.values():
            storage.fill_(pattern)


@contextmanager
def poisoned_memory(arena: Arena, pattern: int | None) -> Iterator[Callable[[], int]]:
    """Inside it, all memory that a kernel is about to write holds `pattern` (0..255) in every byte; None does nothing.

    That is: each buffer of `arena` every time it is taken, in place of the zeros of a zeroed arena, with a tail behind
    it; and each floating tensor that is allocated uninitialised (the cache, the ops' own outputs). Integers that an op
    allocates keep their garbage: an unwritten index would end the process instead of showing in a number.
    Yields a function that tells how many bytes were filled so far.
    """
    if pattern is None:
        yield lambda: 0
        return
    empties = _PoisonedEmpties(pattern)
    arena.poison, arena.filled = pattern, 0
    try:
        with empties:
            yield lambda: arena.filled + empties.filled
    finally:
        arena.poison = None


class _PoisonedEmpties(TorchFunctionMode):
    """Fills what `torch.empty` and its like return, floating dtypes only."""

    _MAKERS = (torch.empty, torch.empty_like, torch.Tensor.new_empty)

    def __init__(self, pattern: int) -> None:
        super().__init__()
        self.pattern = pattern
        self.filled = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self._MAKERS and result.is_floating_point() and result.is_contiguous():
            result.view(-1).view(torch.uint8).fill_(self.pattern)
            self.filled += result.numel() * result.element_size()
        return result
