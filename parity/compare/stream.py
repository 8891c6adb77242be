"""How far apart are two stored tensors, slice by slice, when neither fits into memory?

A tensor is measured in pieces of whole rows: rows are judged as they pass, column blocks when all rows have. Where a
row is too long for that, in pieces of columns: column blocks are judged as they pass, rows when all columns have. Of
either only the worst is kept, so that no shape needs more memory than a piece, and the whole tensor adds up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from parity.compare.tensorfile import StoredTensor
from parity.floor import DerivedFloor
from parity.floor.derived import ASKED
from parity.metrics import (
    COLUMN_BLOCK,
    Columns,
    Moments,
    RoundedMoments,
    RowRepeats,
    SliceTable,
    column_edges,
    fold_moments,
    nonfinite,
    norm_ratio,
    rel_l2,
    size_cuts,
    sized_rows,
    slice_metrics,
)
from parity.metrics.rounding import ELEMENT_SPREADS
from parity.records import SliceResult

Array = NDArray[np.float64]

ELEMENTS_AT_ONCE = 1 << 22
ROWS_AT_ONCE = 1 << 16
WIDEST = 1 << 20
"""Elements of a row that are widened at once; longer rows are measured in stretches of that many columns."""


@dataclass
class Streamed:
    """What is known of a pair of stored tensors after one pass. rows: N of the [N, W] that it was read as.

    blocks: column blocks of 128 in a row. totals: moments of what was measured so far. worst_row, worst_columns: None
    where there is none. blind: row slices that could not show a scale error of 1 %. own, own_columns: of the cell that
    is furthest over what its own size explains, by how much, and its row and columns; own_rows: rows with such a cell.
    lost: rows of which the bound could not tell zeros, though they differ.
    by_side: NaN and infinite elements (how many, in how many rows, first row) by side.
    """

    shape: tuple[int, ...]
    rows: int
    blocks: int
    totals: Moments | None = None
    worst_row: SliceResult | None = None
    worst_columns: SliceResult | None = None
    blind: int = 0
    own: tuple[float, str] = (0.0, "")
    own_columns: tuple[float, str] = (0.0, "")
    own_rows: int = 0
    lost: int = 0
    by_side: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    @property
    def total(self) -> Moments:
        """Moments of the whole tensor, of shape []."""
        assert self.totals is not None
        return self.totals

    def row_words(self, row: int) -> str:
        """`row 5`, or `row [1, 2]` where several leading axes were flattened."""
        lead = self.shape[:-1]
        if len(lead) < 2:
            return f"row {row}"
        return f"row {[int(i) for i in np.unravel_index(row, lead)]}"

    def table(self) -> SliceTable:
        """The whole tensor as a slice."""
        one = np.zeros(1, np.int64)
        return SliceTable("tensor", one, one + self.rows, self.total[None])

    def finish(self, floor: DerivedFloor | None) -> tuple[tuple[SliceResult, ...], dict[str, float]]:
        """(the worst slice of each kind, worst first; metrics of all elements, the spread of the rows' norm ratios, and
        what the bound can see)."""
        table = self.table()
        at, over, by, seen = worst_of(table, floor, 1)
        metrics = slice_metrics(table, at)
        whole = SliceResult("tensor", 0, "whole tensor", dict(metrics), over, by)
        found = [one for one in (self.worst_row, self.worst_columns, whole) if one is not None]
        count, mean, squares = self.ratios
        metrics["norm_ratio_mean"] = mean if count else float("nan")
        metrics["norm_ratio_sd"] = math.sqrt(squares / count) if count else float("nan")
        if seen is not None:
            metrics["scale_seen"] = float(seen[0])
            metrics["rows_blind"] = float(self.blind)
            metrics["rows_beside"] = float(self.own_rows)
        return tuple(sorted(found, key=_badness, reverse=True)), metrics


def stream_pair(
    a: StoredTensor, b: StoredTensor, floor: DerivedFloor | None, advance: Callable[[int], None] | None = None
) -> Streamed:
    """Measure two floating-point tensors of one shape that is not empty. advance: told bytes as they are read."""
    rows, width = a.matrix
    parts = 2 if a.known == torch.complex64 else 1  # real and imaginary, side by side
    width *= parts
    result = Streamed(a.shape, rows, -(-width // COLUMN_BLOCK))
    pieces = _by_rows if width <= WIDEST else _by_columns
    pieces(result, a, b, width, parts, floor, advance or (lambda _: None))
    if result.worst_row is not None and width > parts:
        column = _lone_column(a, b, result.worst_row, width, parts, floor)
        if column is not None:
            words = f"{result.worst_row.where}, column {column // parts}"
            result.worst_row = replace(result.worst_row, where=words)
    return result


def _by_rows(
    result: Streamed,
    a: StoredTensor,
    b: StoredTensor,
    width: int,
    parts: int,
    floor: DerivedFloor | None,
    advance: Callable[[int], None],
) -> None:
    """Pieces of whole rows."""
    cuts = () if floor is None else _cuts(a, width, parts)
    columns, repeats, across = column_edges(("D",), (width,), cuts), RowRepeats(), None
    step = max(1, min(ELEMENTS_AT_ONCE // max(width, 1), ROWS_AT_ONCE))
    for first in range(0, result.rows, step):
        last = min(first + step, result.rows)
        by_row, more = _measure(a, b, (first, last), (0, width), width, parts, floor, repeats, columns)
        across = more if across is None else across.plus(more)
        _take_rows(result, by_row, first, floor)
        for tensor in (a, b):
            tensor.release(last * width // parts)
        advance((last - first) * width // parts * (_itemsize(a) + _itemsize(b)))
    if across is not None:
        _take_columns(result, across, columns, 0, floor)


def _by_columns(
    result: Streamed,
    a: StoredTensor,
    b: StoredTensor,
    width: int,
    parts: int,
    floor: DerivedFloor | None,
    advance: Callable[[int], None],
) -> None:
    """Pieces of WIDEST columns of one row; all rows of a stretch of columns before the next stretch."""
    repeats, by_row = RowRepeats(), None
    for left, right in _stretches(width):
        columns, across, rows = column_edges(("D",), (right - left,)), None, []
        for row in range(result.rows):
            one, more = _measure(a, b, (row, row + 1), (left, right), width, parts, floor, repeats, columns)
            across = more if across is None else across.plus(more)
            rows.append(one)
            for tensor in (a, b):
                tensor.release((row * width + right) // parts, (row * width + left) // parts)
            advance((right - left) // parts * (_itemsize(a) + _itemsize(b)))
        joined = Moments.join(rows)
        by_row = joined if by_row is None else by_row.plus(joined)
        if across is not None:
            _take_columns(result, across, columns, left, floor)
    if by_row is not None:
        _take_rows(result, by_row, 0, floor)


def worst_of(
    table: SliceTable, floor: DerivedFloor | None, slices: int
) -> tuple[int, float | None, str | None, Array | None]:
    """(number, score, metric) of the worst slice: most nonfinite elements, then over the gate, then rel_l2; and the
    scale error that each slice shows."""
    bad = nonfinite(table.moments)
    error = rel_l2(table.moments)
    error = np.where(np.isnan(error), -1.0, error)
    if floor is None:
        return int(np.lexsort((error, bad))[-1]), None, None, None
    by_metric, seen = floor.judge_and_see(kind=table.kind, table=table, slices=slices)
    names, scores = list(by_metric), np.stack(list(by_metric.values()))
    score = np.where(np.isnan(scores), -1.0, scores)
    at = int(np.lexsort((error, score.max(0), bad))[-1])
    over = float(score[:, at].max())
    return at, (None if over < 0 else over), names[int(score[:, at].argmax())], seen


def _take_columns(result: Streamed, across: Moments, columns: Columns, left: int, floor: DerivedFloor | None) -> None:
    """Add the moments of some columns, of all rows, to what is known. left: the first of them in the tensor."""
    total = across.total(axis=0)
    result.totals = total if result.totals is None else result.totals.plus(total)
    if isinstance(across, RoundedMoments):
        at = int(across.own.argmax())
        if across.own[at] > result.own_columns[0]:
            words = f"columns {left + columns.edges[at]}..{left + columns.edges[at + 1]}"
            result.own_columns = float(across.own[at]), words
    if result.blocks < 2:
        return
    blocks, _, moments = across.groups(columns.block)
    table = SliceTable("columns", blocks, np.full(len(blocks), result.rows, np.int64), moments)
    at, over, by, _ = worst_of(table, floor, result.blocks)
    cells = np.flatnonzero(columns.block == blocks[at])
    words = f"columns {left + columns.edges[cells[0]]}..{left + columns.edges[cells[-1] + 1]}"
    number = left // COLUMN_BLOCK + int(blocks[at])
    found = SliceResult("columns", number, words, slice_metrics(table, at), over, by)
    if result.worst_columns is None or _badness(found) > _badness(result.worst_columns):
        result.worst_columns = found


def _take_rows(result: Streamed, by_row: Moments, first: int, floor: DerivedFloor | None) -> None:
    """Add the moments of rows `first`... to what is known."""
    index = np.arange(first, first + len(by_row.count))
    table = SliceTable("row", index, np.ones(len(index), np.int64), by_row)
    at, over, by, seen = worst_of(table, floor, result.rows)
    row = int(index[at])
    found = SliceResult("row", row, result.row_words(row), slice_metrics(table, at), over, by)
    if result.worst_row is None or _badness(found) > _badness(result.worst_row):
        result.worst_row = found
    if seen is not None:
        result.lost += int(((by_row.dd > 0) & (seen >= 1)).sum())
        result.blind += int(((by_row.yy > 0) & (seen > ASKED)).sum())
    if isinstance(by_row, RoundedMoments):
        at = int(by_row.own.argmax())
        if by_row.own[at] > result.own[0]:
            result.own = float(by_row.own[at]), result.row_words(int(index[at]))
        result.own_rows += int((by_row.own > 1).sum())
    for side in ("oracle", "sut"):
        bad = getattr(by_row, f"nonfinite_{side}")
        if bad.any():
            count, rows, start = result.by_side.get(side, (0, 0, int(index[bad > 0][0])))
            result.by_side[side] = (count + int(bad.sum()), rows + int((bad > 0).sum()), start)
    ratios = norm_ratio(by_row)
    _spread(result.ratios, ratios[np.isfinite(ratios)])


def _spread(known: list[float], values: Array) -> None:
    """Take values into (count, mean, sum of squared deviations); Chan, Golub & LeVeque 1979."""
    if not len(values):
        return
    count, mean, squares = known
    total = count + len(values)
    delta = float(values.mean()) - mean
    known[:] = [
        total,
        mean + delta * len(values) / total,
        squares + float(((values - values.mean()) ** 2).sum()) + delta**2 * count * len(values) / total,
    ]


def _cuts(tensor: StoredTensor, width: int, parts: int) -> tuple[int, ...]:
    """Where the size of the columns changes, from some rows of the oracle."""
    at = sized_rows(tensor.matrix[0])
    return (
        size_cuts(torch.cat([_rows_of(tensor, (row, row + 1), (0, width), width, parts) for row in at])) if at else ()
    )


def _stretches(width: int) -> Iterator[tuple[int, int]]:
    """WIDEST is a multiple of the column block, so no block is divided."""
    for left in range(0, width, WIDEST):
        yield left, min(left + WIDEST, width)


def _measure(
    a: StoredTensor,
    b: StoredTensor,
    rows: tuple[int, int],
    stretch: tuple[int, int],
    width: int,
    parts: int,
    floor: DerivedFloor | None,
    repeats: RowRepeats,
    columns: Columns,
) -> tuple[Moments, Moments]:
    edges = columns.edges
    y, x = (_rows_of(t, rows, stretch, width, parts) for t in (a, b))
    if floor is None:
        by_row, across = fold_moments(oracle=y, sut=x, edges=edges)
    else:
        by_row, across = floor.fold(oracle=y, sut=x, edges=edges, repeats=repeats)
    return by_row, across[0]


def _rows_of(
    tensor: StoredTensor, rows: tuple[int, int], stretch: tuple[int, int], width: int, parts: int
) -> torch.Tensor:
    """[n, right - left] of the tensor read as [N, W]; one row when the stretch is not the whole width."""
    (first, last), (left, right) = rows, stretch
    start, end = (first * width + left) // parts, ((last - 1) * width + right) // parts
    piece = tensor.piece(start, end)
    if parts == 2:
        piece = torch.view_as_real(piece)
    return piece.reshape(last - first, right - left)


def _lone_column(
    a: StoredTensor, b: StoredTensor, worst: SliceResult, width: int, parts: int, floor: DerivedFloor | None
) -> int | None:
    """The one element that makes a row the worst: it has most of the squared error, or is furthest over its own bound.

    None where no element stands out.
    """
    highest, at, squares = 0.0, 0, 0.0
    by_element = worst.by == "element"
    for left, right in _stretches(width):
        y, x = (_rows_of(t, (worst.index, worst.index + 1), (left, right), width, parts) for t in (a, b))
        y, x = y[0].to(torch.float64), x[0].to(torch.float64)
        for tensor in (a, b):
            tensor.release((worst.index * width + right) // parts, (worst.index * width + left) // parts)
        score = torch.nan_to_num((x - y) ** 2, nan=float("inf"))
        squares += float(score.sum())
        if by_element and floor is not None:
            # The element's own bound, but for what few values are allowed in excess.
            size = float((y * y).mean().sqrt())
            allowed = ELEMENT_SPREADS * float(floor.model.drift(np.array(np.inf))) * size + floor.model.absolute
            score /= ((x.abs() + y.abs()) * floor.model.roundings * floor.model.unit + allowed) ** 2
        if score.max() > highest:
            highest, at = float(score.max()), left + int(score.argmax())
    return at if by_element or highest > 0.5 * squares else None


def _itemsize(tensor: StoredTensor) -> int:
    return 1 if tensor.known is None else tensor.known.itemsize


def _badness(result: SliceResult) -> tuple[float, float, float]:
    error = result.metrics["rel_l2"]
    over = -1.0 if result.over_floor is None else result.over_floor
    return result.metrics["nonfinite"], over, -1.0 if math.isnan(error) else error
