"""Are two stored tensors equal, bit for bit or value for value? For what has no rounding: ids, flags, packed bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from parity.compare.tensorfile import StoredTensor

BYTES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Differences:
    """count: elements that differ, of `elements`. first: the number of the first one in row-major order."""

    count: int
    elements: int
    first: int | None


def same_bytes(a: StoredTensor, b: StoredTensor) -> bool:
    """True when dtype, shape and every byte agree."""
    if (a.dtype, a.shape, len(a.raw)) != (b.dtype, b.shape, len(b.raw)):
        return False
    pieces = range(0, len(a.raw), BYTES_AT_ONCE)
    return all(a.raw[at : at + BYTES_AT_ONCE] == b.raw[at : at + BYTES_AT_ONCE] for at in pieces)


def count_differences(a: StoredTensor, b: StoredTensor) -> Differences:
    """Elements whose values differ; shapes are equal, dtypes integers, or one of bool or float8_e8m0fnu on both."""
    rows, columns = a.matrix
    count, first = 0, None
    for start, x, y in _pieces(a, b, rows * columns):
        unequal = x != y
        here = int(unequal.sum())
        if here and first is None:
            first = start + int(unequal.to(torch.uint8).argmax())
        count += here
    return Differences(count, rows * columns, first)


def _pieces(a: StoredTensor, b: StoredTensor, elements: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    step = BYTES_AT_ONCE // 8
    for start in range(0, elements, step):
        x, y = (_widened(t.piece(start, min(start + step, elements))) for t in (a, b))
        yield start, x, y


def _widened(piece: torch.Tensor) -> torch.Tensor:
    """Values as int64, or as bits where both sides share a dtype that has no arithmetic."""
    if piece.dtype in (torch.bool, torch.float8_e8m0fnu):
        return piece.view(torch.uint8)
    if piece.dtype == torch.uint64:
        # Values past 2^63 turn negative: still one to one, and any other dtype's values stay below.
        return piece.view(torch.int64)
    return piece.to(torch.int64)
