"""Which sums over rows, heads and columns do the detectors share? One pass over both sides, cell by cell.

Tensors are read in blocks of rows that stay in a core's cache: a pass over memory for each operation costs twice that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.metrics import COLUMN_BLOCK

Array = NDArray[np.float64]

STRIP = 8
"""Columns of the narrowest sums: tensor cores work on tiles of at least 8 columns, a vector load takes as many."""

BLOCK = 1 << 15
"""Elements of a block, 128 KB of fp32: three of them fit a second-level cache."""


@dataclass(frozen=True)
class Sums:
    """Inner products of oracle y, SUT x and error d = x - y over each (row, column cell), [rows, cells] fp64.

    edges: [cells + 1] column edges; a cell lies within one head and one block of 128 columns. head, block: [cells].
    strips: yy, dy and dd of each (row, STRIP columns), [rows, strips] fp32, the last strip may be narrower. columns:
    yy, dy and dd of each column, [width].
    """

    yy: Array
    dy: Array
    dd: Array
    edges: tuple[int, ...]
    head: NDArray[np.int64] | None
    block: NDArray[np.int64]
    strips: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    columns: tuple[Array, Array, Array]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[cells], columns of each."""
        return np.diff(np.array(self.edges))

    @property
    def rows(self) -> tuple[Array, Array, Array]:
        """(yy, dy, dd) of each row, [rows]."""
        return self.yy.sum(1), self.dy.sum(1), self.dd.sum(1)

    def by(self, rows: NDArray[np.integer] | None, cells: NDArray[np.integer] | None) -> tuple[Array, Array, Array]:
        """(yy, dy, dd), [groups of rows, groups of cells]; labels from 0, negative rows left out; None is one group."""
        return tuple(_grouped(_grouped(a, rows, 0), cells, 1) for a in (self.yy, self.dy, self.dd))  # type: ignore


def _grouped(values: Array, labels: NDArray[np.integer] | None, axis: int) -> Array:
    if labels is None:
        return values.sum(axis=axis, keepdims=True)
    count = int(labels.max()) + 1 if len(labels) else 0
    if axis == 1:
        return _grouped(values.T, labels, 0).T
    known = labels >= 0
    out = np.zeros((max(count, 0), values.shape[1]))
    np.add.at(out, labels[known], values[known])
    return out


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of consecutive rows, together all of them, of at most BLOCK elements or one row."""
    height = max(BLOCK // max(width, 1), 1)
    return (slice(start, start + height) for start in range(0, rows, height))


def squared_norm(values: torch.Tensor) -> float:
    """Sum of squares of fp32 values of any shape: fp32 within a block, fp64 beyond; 0 for none."""
    return sum(float(part.dot(part)) for part in values.reshape(-1).split(BLOCK))


def squared_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """squared_norm(a - b) of [N, W] fp32 tensors, without the difference as a whole."""
    return sum(squared_norm(a[block] - b[block]) for block in row_blocks(*a.shape))


def row_distances(a: torch.Tensor, b: torch.Tensor) -> Array:
    """[N] fp64, squared distance of each row of [N, W] fp32 tensors; fp32 within a row."""
    out = np.zeros(len(a))
    for block in row_blocks(*a.shape):
        out[block] = (a[block] - b[block]).square_().sum(1).numpy()
    return out


def pair_sums(y: torch.Tensor, x: torch.Tensor, d: torch.Tensor, *, heads: int) -> Sums:
    """Sums of [N, W] fp32 tensors; products in fp32, added in fp32 within a strip or column of a block, fp64 beyond.

    heads: equal parts of the row that no cell may straddle; 0 for none. N and W may be 0.
    """
    del x
    rows, width = y.shape
    marks = {0, width, *range(0, width, COLUMN_BLOCK)}
    per_head = width // heads if heads else 0
    if per_head:
        marks |= set(range(0, width, per_head))
    edges = tuple(sorted(marks)) if width else (0,)
    left = np.array(edges[:-1], np.int64)
    count = -(-width // STRIP)
    strips = [np.zeros((rows, count), np.float32) for _ in range(3)]
    cells = [np.zeros((rows, len(left))) for _ in range(3)]
    columns = [np.zeros(width) for _ in range(3)]
    whole = width % STRIP == 0 and all(edge % STRIP == 0 for edge in edges)
    ones = np.ones(STRIP, np.float32)
    for block in row_blocks(rows, width) if width else ():
        y_, d_ = y[block].numpy(), d[block].numpy()
        for number, (a, b) in enumerate(((y_, y_), (d_, y_), (d_, d_))):
            product = a * b
            columns[number] += product.sum(0)
            if width % STRIP:
                padded = np.zeros((len(product), count * STRIP), np.float32)
                padded[:, :width] = product
            else:
                padded = product
            part = (padded.reshape(-1, STRIP) @ ones).reshape(-1, count)
            strips[number][block] = part
            if whole:
                cells[number][block] = np.add.reduceat(part, left // STRIP, axis=1, dtype=np.float64)
            else:
                cells[number][block] = np.add.reduceat(product, left, axis=1, dtype=np.float64)
    return Sums(
        *cells,
        edges=edges,
        head=left // per_head if per_head else None,
        block=left // COLUMN_BLOCK,
        strips=(strips[0], strips[1], strips[2]),
        columns=(columns[0], columns[1], columns[2]),
    )
