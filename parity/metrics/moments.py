"""Which sums does every metric of every slice follow from?

A moment belongs to one row and one block of columns. Any slice (a row, a head, an expert's rows, a column block, the
whole tensor) is a set of such cells, so its metrics follow from adding cells up; the tensors are read once.

The sums are kept as `yy`, `dy`, `dd` with d = sut - oracle, not as `xx` and `xy`: slope - 1 = dy / yy then keeps its
relative accuracy where xy - yy would cancel, and a floor of an fp32 stage sits at 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = frozenset({"max_abs", "element", "own"})
"""Moments of which the largest is taken where others are added; `element` and `own` are of parity.metrics.rounding."""

Fold = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Moments:
    """Sums over sets of element pairs (oracle y, sut x, d = x - y); every field has the same shape.

    count: pairs, finite or not. finite: pairs where both sides are. xx, yy, dy, dd: fp64 sums over the finite pairs.
    max_abs: largest |d| over those pairs, 0 when there are none.
    nonfinite_oracle, nonfinite_sut: elements that are NaN or infinite on that side.
    differ: pairs whose bits differ after exact widening to the wider dtype; -0 differs from +0, equal NaNs do not.
    """

    count: NDArray[np.int64]
    finite: NDArray[np.int64]
    xx: NDArray[np.float64]
    yy: NDArray[np.float64]
    dy: NDArray[np.float64]
    dd: NDArray[np.float64]
    max_abs: NDArray[np.float64]
    nonfinite_oracle: NDArray[np.int64]
    nonfinite_sut: NDArray[np.int64]
    differ: NDArray[np.int64]

    @property
    def xy(self) -> NDArray[np.float64]:
        """Inner product of both sides."""
        return self.yy + self.dy

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count.shape

    def __getitem__(self, index: object) -> Moments:
        """The cells at a numpy index, as numpy understands it."""
        return type(self)(*(getattr(self, name)[index] for name in _names(type(self))))

    def total(self, axis: int) -> Moments:
        """Cells added along one axis; an empty axis gives the moments of nothing (zeros)."""
        return self._fold(lambda a: np.asarray(a.sum(axis=axis)), lambda a: np.asarray(a.max(axis=axis, initial=0.0)))

    def groups(
        self, labels: NDArray[np.integer], axis: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Moments]:
        """Cells added by label along one axis.

        labels: [N] integers, N the length of that axis; negative ones are left out.
        Returns (the labels that occur, ascending; how many cells along the axis each has; their moments, with the
        labels in place of the axis).
        """
        kept = np.flatnonzero(labels >= 0)
        order = kept[np.argsort(labels[kept], kind="stable")]
        names, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
        if not len(names):
            shape = list(self.shape)
            shape[axis] = 0
            return names.astype(np.int64), sizes.astype(np.int64), self._fold(lambda a: np.zeros(shape, a.dtype))
        folded = self._fold(
            lambda a: np.add.reduceat(np.take(a, order, axis), starts, axis),
            lambda a: np.maximum.reduceat(np.take(a, order, axis), starts, axis),
        )
        return names.astype(np.int64), sizes.astype(np.int64), folded

    def _fold(self, add: Fold, largest: Fold | None = None) -> Moments:
        """`add` applied to every sum, `largest` (where given) to the maximum."""
        names = _names(type(self))
        folds = [largest if name in LARGEST and largest is not None else add for name in names]
        return type(self)(*(fold(getattr(self, name)) for fold, name in zip(folds, names, strict=True)))

    def plus(self, other: Moments) -> Moments:
        """Both added, cell by cell; of the largest ones, the larger."""
        pairs = ((name in LARGEST, getattr(self, name), getattr(other, name)) for name in _names(type(self)))
        return type(self)(*(np.maximum(a, b) if largest else a + b for largest, a, b in pairs))

    def none(self) -> Moments:
        """Moments of nothing, of this shape and kind."""
        return self._fold(np.zeros_like)

    @staticmethod
    def zeros(*shape: int) -> Moments:
        """Moments of nothing."""
        c, s = (lambda: np.zeros(shape, np.int64)), (lambda: np.zeros(shape))
        return Moments(c(), c(), s(), s(), s(), s(), s(), c(), c(), c())

    @staticmethod
    def join(parts: Sequence[Moments]) -> Moments:
        """Several requests' moments as one, rows after rows."""
        kind = type(parts[0])
        return kind(*(np.concatenate([getattr(p, name) for p in parts]) for name in _names(kind)))


@cache
def _names(kind: type[Moments]) -> tuple[str, ...]:
    """Fields of a kind of moments; asked for a hundred times a tensor, and there are files of tens of thousands."""
    return tuple(f.name for f in fields(kind))
