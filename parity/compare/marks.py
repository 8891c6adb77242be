"""Which of a request's positions are marked? One bit each, so that a million tokens of many layers are remembered."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Marks:
    """Marked positions of one request. Blocks of them are added in any order and do not overlap."""

    _blocks: list[tuple[int, int, NDArray[np.uint8]]] = field(default_factory=list)

    def add(self, position: NDArray[np.int64], marked: NDArray[np.bool_]) -> None:
        """position: [T]; marked: [T], which of them. A block without a mark takes no room."""
        if not marked.any():
            return
        here = position[marked]
        first, size = int(here.min()), int(here.max() - here.min()) + 1
        bits = np.zeros(size, bool)
        bits[here - first] = True
        self._blocks.append((first, size, np.packbits(bits)))

    def at(self, position: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[T], is each of these positions marked? An empty array for none."""
        found = np.zeros(len(position), bool)
        for first, size, packed in self._blocks:
            inside = np.flatnonzero((position >= first) & (position < first + size))
            if len(inside):
                bit = position[inside] - first
                found[inside] |= ((packed[bit >> 3] >> (7 - (bit & 7)).astype(np.uint8)) & 1).astype(bool)
        return found
