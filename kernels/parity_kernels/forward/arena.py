"""Where do a forward pass's buffers come from? One named allocation each, reused by every layer and every run."""

from __future__ import annotations

from math import prod

import torch


class Arena:
    """Named buffers that live as long as the engine.

    Like a serving engine's workspace, a buffer keeps what the last user left in it unless `zeroed`: a kernel that does
    not write all of its output then shows rows of an earlier layer, chunk or request.
    """

    def __init__(self, device: torch.device, *, zeroed: bool = False) -> None:
        self.device = device
        self.zeroed = zeroed
        self._storage: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The buffer called `name` as a contiguous tensor of `shape` and `dtype`, grown when it was smaller."""
        size = prod(shape) * dtype.itemsize
        storage = self._storage.get(name)
        if storage is None or storage.numel() < size:
            storage = self._storage[name] = torch.empty(max(size, 1), dtype=torch.uint8, device=self.device)
        if self.zeroed:
            storage[:size].zero_()
        return storage[:size].view(dtype).view(shape)

    def fill(self, pattern: int) -> None:
        """Overwrite every byte of every buffer with `pattern` (0..255), to expose reads of stale memory."""
        for storage in self._storage.values():
            storage.fill_(pattern)
