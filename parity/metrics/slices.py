"""Which slices does a stage's tensor have, and what are the moments of each?

Kinds: `row` (one leading row), `head` (the columns of one head, all rows), `expert` (one expert's rows, all columns),
`columns` (one 128-column block, all rows; the block of FP8 weight scales) and `tensor`. A tensor of one block has no
`columns` slice, since that would be the tensor again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from parity.metrics.formulas import all_metrics
from parity.metrics.moments import Moments
from parity.metrics.repeats import independent_by_group, independent_rows
from parity.metrics.rounding import FEW_VALUES, RoundedMoments

COLUMN_BLOCK = 128
"""Columns of one weight-scale block of the block-FP8 format (and of DeepSeek-V3's)."""

_SIZED_ROWS, _SIZED_WIDTH, _MOST_CUTS = 17, 1 << 16, 64

KINDS = ("row", "head", "expert", "columns", "tensor")


@dataclass(frozen=True)
class SliceTable:
    """All slices of one kind. index: [n], the slice's number on its axis; rows: [n], leading rows it spans.

    independent: [n], how many of them err independently (parity/metrics/repeats.py); None where all do.
    """

    kind: str
    index: NDArray[np.int64]
    rows: NDArray[np.int64]
    moments: Moments
    independent: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Columns:
    """How the columns of a flattened row are cut: edges of the cells, and which head and 128-block each cell is in."""

    edges: tuple[int, ...]
    head: NDArray[np.int64] | None
    block: NDArray[np.int64]


def column_edges(axes: Sequence[str], shape: Sequence[int], cuts: Sequence[int] = ()) -> Columns:
    """Cut the trailing axes of a stage into cells that neither a head nor a 128-column block divides.

    axes, shape: of the canonical tensor without its leading row axes, for instance (H, K) and (6, 64). cuts: more
    edges inside the flattened row (`size_cuts`); they divide cells and no slice.
    """
    return _column_edges(tuple(axes), tuple(map(int, shape)), tuple(cuts))


@lru_cache(maxsize=64)
def _column_edges(axes: tuple[str, ...], shape: tuple[int, ...], cuts: tuple[int, ...]) -> Columns:
    width = int(np.prod(shape, dtype=np.int64))
    marks = {0, width, *range(0, width, COLUMN_BLOCK), *(cut for cut in cuts if 0 < cut < width)}
    per_head = None
    if len(axes) == 2 and axes[0] in ("H", "G") and shape[0]:
        per_head = width // shape[0]
        marks |= set(range(0, width, per_head)) if per_head else set()
    edges = tuple(sorted(marks))
    left = np.array(edges[:-1], np.int64)
    return Columns(edges, None if not per_head else left // per_head, left // COLUMN_BLOCK)


def sized_rows(rows: int) -> list[int]:
    """The rows, spread over a tensor, that tell the size of its columns; none of a tensor of fewer."""
    return [n * (rows - 1) // (_SIZED_ROWS - 1) for n in range(_SIZED_ROWS)] if rows >= _SIZED_ROWS else []


def size_cuts(values: torch.Tensor) -> tuple[int, ...]:
    """Columns at which the size of a tensor's values changes, so that a cell holds values of like size.

    values: [n, W], the rows of `sized_rows`, any floating dtype. A column's size is its median magnitude, which
    outliers of a few rows do not move; a cut is where it changes by more than FEW_VALUES, which chance does not do in
    so many rows. None for no rows, for more than 2^16 columns, and where more than 64 cuts say that neighbouring
    columns have no size in common.
    """
    if not len(values) or not 1 < values.shape[1] <= _SIZED_WIDTH:
        return ()
    size = values.to(torch.float32).abs().nan_to_num_(nan=0.0).median(0).values.cpu().numpy()
    larger, smaller = np.maximum(size[1:], size[:-1]), np.minimum(size[1:], size[:-1])
    found = 1 + np.flatnonzero(larger / FEW_VALUES > smaller)
    return tuple(found.tolist()) if len(found) <= _MOST_CUTS else ()


def slice_tables(
    cells: Moments,
    columns: Columns,
    *,
    experts: NDArray[np.integer] | None = None,
    keep: NDArray[np.bool_] | None = None,
) -> list[SliceTable]:
    """Every slice of a pair, kind by kind; kinds the tensor does not have are left out.

    cells: Moments [N, C] over `columns`. experts: [N], expert of each row, negative where it has none.
    keep: [N]; rows left out of every slice are False. Row slices are numbered by their row in `cells`.
    """
    kept = np.arange(cells.shape[0]) if keep is None else np.flatnonzero(keep)
    cells = cells if keep is None else cells[kept]
    return tables_of(
        rows=cells.total(axis=1), across=cells.total(axis=0), columns=columns, index=kept, experts=experts
    )  # fmt: skip


def tables_of(
    *,
    rows: Moments,
    across: Moments,
    columns: Columns,
    index: NDArray[np.integer],
    experts: NDArray[np.integer] | None,
    context: NDArray[np.uint64] | None = None,
) -> list[SliceTable]:
    """`slice_tables` of moments that are added up already.

    rows: [n], of each row kept; index: [n], their numbers. across: [C], of each cell of `columns` over those rows.
    experts: [N], by number of row. context: [N], likewise: equal where rows repeat one another, 0 where not known.
    """
    alone = None if context is None else independent_rows(context[index])
    tables = [SliceTable("row", index.astype(np.int64), np.ones(len(index), np.int64), rows)]
    for kind, labels in (("head", columns.head), ("columns", columns.block)):
        if labels is not None and len(set(labels.tolist())) > 1:
            names, _, moments = across.groups(labels)
            each = None if alone is None else np.full(len(names), alone)
            tables.append(SliceTable(kind, names, np.full(len(names), len(index), np.int64), moments, each))
    if experts is not None:
        of_row = np.asarray(experts)[index]
        names, sizes, moments = rows.groups(of_row)
        each = None if context is None else independent_by_group(context[index], of_row, names)
        tables.append(SliceTable("expert", names, sizes, moments, each))
    whole = across.total(axis=0)
    one = np.zeros(1, np.int64)
    each = None if alone is None else np.array([alone])
    tables.append(SliceTable("tensor", one, one + len(index), whole[None], each))
    return tables


def slice_metrics(table: SliceTable, at: int) -> dict[str, float]:
    """Every metric of one slice by name; `element` and `own` besides, where the moments have it."""
    one = table.moments[at : at + 1]
    metrics = {name: float(value[0]) for name, value in all_metrics(one).items()}
    if isinstance(one, RoundedMoments):
        metrics["element"], metrics["own"] = float(one.element[0]), float(one.own[0])
    return metrics
