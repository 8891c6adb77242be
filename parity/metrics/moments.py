"""Which sums does every metric of every slice follow from, and how are they collected in one pass over memory?

A moment belongs to one row and one block of columns. Any slice (a row, a head, an expert's rows, a column block, the
whole tensor) is a set of such cells, so its metrics follow from adding cells up; the tensors are read once.

The sums are kept as `yy`, `dy`, `dd` with d = sut - oracle, not as `xx` and `xy`: slope - 1 = dy / yy then keeps its
relative accuracy where xy - yy would cancel, and a floor of an fp32 stage sits at 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import DtypeError, ShapeError

READABLE = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)
"""Floating dtypes whose elements torch widens exactly. Packed formats (fp4, int4) hold two a byte: unpack them
first."""

_BLOCK_ELEMENTS = 1 << 17  # 1 MiB of fp64 a side: three such buffers stay in the second-level cache
LARGEST = frozenset({"max_abs", "element"})
"""Moments of which the largest is taken where others are added; `element` is of parity.metrics.rounding."""

Fold = Callable[[NDArray[Any]], NDArray[Any]]
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

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
        folds = [largest if f.name in LARGEST and largest is not None else add for f in fields(self)]
        return type(self)(*(fold(getattr(self, f.name)) for fold, f in zip(folds, fields(self), strict=True)))

    @staticmethod
    def join(parts: Sequence[Moments]) -> Moments:
        """Several requests' moments as one, rows after rows."""
        kind = type(parts[0])
        return kind(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(kind)))


def pair_moments(*, oracle: torch.Tensor, sut: torch.Tensor, edges: Sequence[int] | None = None) -> Moments:
    """Moments of each (row, column block) of a pair, in one blocked pass.

    oracle, sut: [N, W] of any dtype in READABLE, not necessarily the same; N and W may be 0; either may be a memory
        map: at most 128 Ki elements a side are widened (to fp64, exactly) at a time.
    edges: column boundaries 0 = e0 < e1 < ... < eC = W; None means one block.
    Returns Moments of shape [N, C]; all products and sums in fp64. Values up to 1e150 do not overflow.
    Raises ShapeError for shapes that differ (nothing broadcasts), DtypeError for a dtype that is not READABLE.
    """
    if oracle.shape != sut.shape or oracle.ndim != 2:
        raise ShapeError(
            place="pair of tensors to measure",
            expected="two tensors of one shape [N, W]; nothing broadcasts",
            found=f"oracle {list(oracle.shape)}, sut {list(sut.shape)}",
            next_step="Align both captures first (parity.align), or compare them with parity.compare.",
        )
    for side, tensor in (("oracle", oracle), ("sut", sut)):
        if tensor.dtype not in READABLE:
            raise DtypeError(
                place=f"{side} tensor to measure",
                expected="one of " + ", ".join(str(d).removeprefix("torch.") for d in READABLE),
                found=str(tensor.dtype).removeprefix("torch."),
                next_step="Integers are compared as sets of ids; unpack or dequantize packed formats first.",
            )
    rows, width = oracle.shape
    edges = (0, width) if edges is None else tuple(edges)
    blocks = max(len(edges) - 1, 0) if width else 0
    if blocks and (edges[0] != 0 or edges[-1] != width or any(a >= b for a, b in pairwise(edges))):
        raise ShapeError(
            place="column edges",
            expected=f"rising from 0 to the width {width}",
            found=str(list(edges)),
            next_step="Take them from parity.metrics.column_edges.",
        )
    into = _zeros(rows, blocks)
    step = max(1, _BLOCK_ELEMENTS // max(width, 1))
    for first in range(0, rows if blocks else 0, step):
        _measure_block(oracle[first : first + step], sut[first : first + step], edges, into, first)
    return into


def _zeros(rows: int, blocks: int) -> Moments:
    def sums() -> NDArray[np.float64]:
        return np.zeros((rows, blocks))

    def counts() -> NDArray[np.int64]:
        return np.zeros((rows, blocks), np.int64)

    return Moments(
        counts(), counts(), sums(), sums(), sums(), sums(), sums(), counts(), counts(), counts()
    )  # fmt: skip


def _measure_block(oracle: torch.Tensor, sut: torch.Tensor, edges: Sequence[int], into: Moments, first: int) -> None:
    """Fill rows `first`... of `into`."""
    oracle, sut = oracle.to("cpu").contiguous(), sut.to("cpu").contiguous()
    differ = _bits_differ(oracle, sut)
    y, x = oracle.to(torch.float64), sut.to(torch.float64)
    here = slice(first, first + len(y))
    bad_y = bad_x = None
    # A sum of squares is finite exactly when every element is: this spares the clean case two more passes.
    if not torch.isfinite(torch.linalg.vecdot(y, y) + torch.linalg.vecdot(x, x)).all():
        bad_y, bad_x = ~torch.isfinite(y), ~torch.isfinite(x)
        y, x = (t.masked_fill(bad_y | bad_x, 0.0) for t in (y, x))
    d = x - y
    for block, (left, right) in enumerate(pairwise(edges)):
        yb, xb, db = (t[:, left:right] for t in (y, x, d))
        into.count[here, block] = into.finite[here, block] = right - left
        into.xx[here, block] = torch.linalg.vecdot(xb, xb).numpy()
        into.yy[here, block] = torch.linalg.vecdot(yb, yb).numpy()
        into.dy[here, block] = torch.linalg.vecdot(db, yb).numpy()
        into.dd[here, block] = torch.linalg.vecdot(db, db).numpy()
        into.max_abs[here, block] = torch.maximum(db.amax(1), -db.amin(1)).numpy()
        into.differ[here, block] = differ[:, left:right].sum(1).numpy()
        if bad_y is not None and bad_x is not None:
            into.finite[here, block] -= (bad_y | bad_x)[:, left:right].sum(1).numpy()
            into.nonfinite_oracle[here, block] = bad_y[:, left:right].sum(1).numpy()
            into.nonfinite_sut[here, block] = bad_x[:, left:right].sum(1).numpy()


def _bits_differ(oracle: torch.Tensor, sut: torch.Tensor) -> torch.Tensor:
    if oracle.dtype != sut.dtype:
        wide = torch.float64 if torch.float64 in (oracle.dtype, sut.dtype) else torch.float32
        oracle, sut = oracle.to(wide), sut.to(wide)
    bits = _BITS[oracle.element_size()]
    return oracle.view(bits) != sut.view(bits)
