"""Which sums over rows, heads and columns do the detectors share? One pass over both sides, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from parity.metrics import COLUMN_BLOCK

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Inner products of oracle y, SUT x and error d = x - y over each (row, column cell), [rows, cells] fp64.

    edges: [cells + 1] column edges; a cell lies within one head and one block of 128 columns. head, block: [cells].
    """

    yy: Array
    dy: Array
    dd: Array
    edges: tuple[int, ...]
    head: NDArray[np.int64] | None
    block: NDArray[np.int64]

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


def pair_sums(y: torch.Tensor, x: torch.Tensor, d: torch.Tensor, *, heads: int) -> Sums:
    """Sums of [N, W] fp32 tensors; products in fp32, added in fp32 within a cell (at most 128 of them), fp64 beyond.

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
    parts = []
    for a, b in ((y, y), (d, y), (d, d)):
        product = a * b
        columns = [product[:, i:j].sum(1) for i, j in pairwise(edges)]
        parts.append(torch.stack(columns, 1).double().numpy() if columns else np.zeros((rows, 0)))
    return Sums(*parts, edges=edges, head=left // per_head if per_head else None, block=left // COLUMN_BLOCK)
