"""What of an error field can be kept in a file and drawn? A coarse map, and errors by head, expert and position.

Every number is relative: |x - y| / |y| of a slice, SUT x against oracle y; 1 where a slice was lost. A cell of the map
is held against its row, and shows the worst of its rows, so that one lost row in thousands stays to be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.display import Displayed
from parity.errors import UsageError
from parity.fingerprint.field import ErrorField
from parity.metrics.slices import COLUMN_BLOCK

ROW_CELLS, COLUMN_CELLS, POSITIONS = 128, 64, 400
"""Most cells of the map, and points of the position curve: what a page shows, and a few tens of kilobytes in a file."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReducedField(Displayed):
    """An ErrorField made small. Arrays are float64; infinite where the SUT alone is not finite.

    mode: `isolated` or `chained`. order: what rows are sorted by, `position` or `expert`.
    row_edges [R + 1], column_edges [C + 1]: rows (in that order) and columns where the cells of `error` [R, C] begin.
    tile_rows: rows at which a kernel's tile begins, empty where that is not known. experts: id; expert_starts: its
        first row; expert_loads: its rows; expert_error: its relative error, all rows together. Empty without experts.
    heads [H, 5]: least, lower quartile, median, upper quartile and largest relative error of the head's rows.
    position [P]: first position of each bin, position_median and position_worst over the bin's rows.
    launches: (position, phase) at which a new launch begins, a prefill chunk or a decode step; the first is 0's.
    noise: relative error of a clean row, None where that is not known.
    """

    name: str
    mode: str
    order: str
    rows: int
    width: int
    row_edges: NDArray[np.int64]
    column_edges: NDArray[np.int64]
    error: Array
    tile_m: int | None
    tile_rows: tuple[int, ...]
    experts: tuple[int, ...]
    expert_starts: tuple[int, ...]
    expert_loads: tuple[int, ...]
    expert_error: Array
    heads: Array
    position: NDArray[np.int64]
    position_median: Array
    position_worst: Array
    launches: tuple[tuple[int, str], ...]
    noise: float | None = None

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ReducedField:
        """The record that `parity.records.as_json` made of one; UsageError for anything else."""
        try:
            arrays: dict[str, Any] = {
                name: np.array(content[name], np.int64) for name in ("row_edges", "column_edges", "position")
            }
            for name in ("error", "expert_error", "heads", "position_median", "position_worst"):
                arrays[name] = np.array(content[name], np.float64)
            for name in ("tile_rows", "experts", "expert_starts", "expert_loads"):
                arrays[name] = tuple(int(n) for n in content[name])
            made = ReducedField(
                name=str(content["name"]),
                mode=str(content["mode"]),
                order=str(content["order"]),
                rows=int(content["rows"]),
                width=int(content["width"]),
                tile_m=None if content["tile_m"] is None else int(content["tile_m"]),
                launches=tuple((int(at), str(phase)) for at, phase in content["launches"]),
                noise=None if content["noise"] is None else float(content["noise"]),
                **arrays,
            )
            made._check()
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                place="reduced error field",
                expected="the fields of a ReducedField, arrays of matching lengths",
                found=f"{type(error).__name__}: {error}"[:200],
                next_step="Write it with parity.records.as_json.",
            ) from error
        return made

    def _check(self) -> None:
        cells = (max(len(self.row_edges) - 1, 0), max(len(self.column_edges) - 1, 0))
        if self.error.size and self.error.shape != cells:
            raise ValueError(f"error of shape {self.error.shape} for {cells} cells")
        if self.heads.size and self.heads.shape[1:] != (5,):
            raise ValueError(f"heads of shape {self.heads.shape}")
        by_expert = {len(self.experts), len(self.expert_starts), len(self.expert_loads), len(self.expert_error)}
        by_position = {len(self.position), len(self.position_median), len(self.position_worst)}
        if len(by_expert) > 1 or len(by_position) > 1:
            raise ValueError(f"lengths {sorted(by_expert)} by expert, {sorted(by_position)} by position")


def reduce_field(field: ErrorField, *, mode: str = "isolated") -> ReducedField:
    """Make a field small; one pass over the error, plus one over each cell's rows.

    Rows of experts are sorted by expert, launch and their number in the expert, as the kernel had them, where that is
    known. Raises UsageError for ids, which have no distance. A field of no element has no cell.
    """
    if field.ids:
        raise UsageError(
            place=f"error field of {field.name}",
            expected="floating tensors",
            found="ids",
            next_step="Count the experts in common instead (`parity compare`).",
        )
    order = _order(field)
    starts = _expert_starts(field, order)
    row_edges = _row_edges(field.rows, [first for _, first, _ in starts])
    column_edges = _column_edges(field)
    rows = _row_errors(field)
    position, median, worst = _by_position(field, rows)
    expert = field.row_expert
    return ReducedField(
        name=field.name,
        mode=mode,
        order="position" if expert is None else "expert",
        rows=field.rows,
        width=field.width,
        row_edges=row_edges,
        column_edges=column_edges,
        error=_cells(field, order, row_edges, column_edges),
        tile_m=field.tile_m,
        tile_rows=_tile_rows(field, order),
        experts=tuple(number for number, _, _ in starts),
        expert_starts=tuple(first for _, first, _ in starts),
        expert_loads=tuple(load for _, _, load in starts),
        expert_error=np.array([] if expert is None else [_error_where(field, expert == n) for n, _, _ in starts]),
        heads=_by_head(field),
        position=position,
        position_median=median,
        position_worst=worst,
        launches=_launches(field),
        noise=field.noise,
    )


def _ratio(dd: Array, yy: Array) -> Array:
    """sqrt(dd / yy) to three digits; 0 for 0 / 0, infinite for an error where the oracle is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(np.where(dd > 0, dd / yy, 0.0))
    return np.array([float(f"{value:.3g}") for value in ratio.ravel()]).reshape(ratio.shape)


def _row_errors(field: ErrorField) -> Array:
    yy, _, dd = field.sums.rows
    error = _ratio(dd, yy)
    if field.nonfinite is not None:
        error[field.nonfinite.any(1).numpy()] = np.inf
    return error


def _error_where(field: ErrorField, rows: NDArray[np.bool_]) -> float:
    yy, _, dd = field.sums.rows
    if field.nonfinite is not None and bool(field.nonfinite[torch.from_numpy(rows)].any()):
        return float("inf")
    return float(_ratio(dd[rows].sum(keepdims=True), yy[rows].sum(keepdims=True))[0])


def _order(field: ErrorField) -> NDArray[np.intp]:
    if field.row_expert is None:
        return np.argsort(field.row_position, kind="stable")
    number = np.zeros(field.rows, np.int64) if field.row_number is None else field.row_number
    return np.lexsort((field.row_position, number, field.row_launch, field.row_expert))


def _expert_starts(field: ErrorField, order: NDArray[np.intp]) -> list[tuple[int, int, int]]:
    """(expert, first row, rows) in order; empty without experts."""
    if field.row_expert is None:
        return []
    numbers, first, loads = np.unique(field.row_expert[order], return_index=True, return_counts=True)
    return list(zip(numbers.tolist(), first.tolist(), loads.tolist(), strict=True))


def _row_edges(rows: int, starts: list[int]) -> NDArray[np.int64]:
    """Cells of equal height, cut anew at each expert: a cell never holds rows of two."""
    step = max(-(-rows // ROW_CELLS), 1)
    ends = [*starts[1:], rows] if starts else [rows]
    edges = {edge for first, last in zip(starts or [0], ends, strict=True) for edge in range(first, last, step)}
    return np.array(sorted({*edges, rows}), np.int64) if rows else np.zeros(0, np.int64)


def _column_edges(field: ErrorField) -> NDArray[np.int64]:
    """Cells of a power of two of columns, cut anew at each head and each block of weight scales."""
    if not field.rows * field.width:
        return np.zeros(0, np.int64)
    unit = field.width // field.heads if field.heads else COLUMN_BLOCK
    step = 1 << max(int(np.ceil(np.log2(field.width / COLUMN_CELLS))), 0)
    if step >= unit:
        return np.array([*range(0, field.width, -(-step // unit) * unit), field.width], np.int64)
    edges = {
        edge for first in range(0, field.width, unit) for edge in range(first, min(first + unit, field.width), step)
    }
    return np.array([*sorted(edges), field.width], np.int64)


def _cells(
    field: ErrorField, order: NDArray[np.intp], row_edges: NDArray[np.int64], column_edges: NDArray[np.int64]
) -> Array:
    """Root mean square of the error in each cell over that of the oracle in the whole row: where the oracle happens to
    be near zero in a few columns, noise there must not look like a loss."""
    cells = np.zeros((max(len(row_edges) - 1, 0), max(len(column_edges) - 1, 0)))
    columns = np.diff(column_edges)
    for at, (first, last) in enumerate(pairwise(row_edges.tolist())):
        take = torch.from_numpy(order[first:last].copy())
        dd = np.add.reduceat(field.d[take].double().square().numpy(), column_edges[:-1], axis=1) / columns
        yy = field.y[take].double().square().mean(1, keepdim=True).numpy()
        ratio = _ratio(dd, np.broadcast_to(yy, dd.shape))
        if field.nonfinite is not None:
            bad = np.logical_or.reduceat(field.nonfinite[take].numpy(), column_edges[:-1], axis=1)
            ratio[bad] = np.inf
        cells[at] = ratio.max(0)
    return cells


def _tile_rows(field: ErrorField, order: NDArray[np.intp]) -> tuple[int, ...]:
    """Rows whose number in their expert is a multiple of the tile's height; a tile of tokens has no such number."""
    number = field.row_number
    if not field.tile_m or number is None or (number < 0).any():
        return ()
    return tuple(np.flatnonzero(number[order] % field.tile_m == 0).tolist())


def _by_head(field: ErrorField) -> Array:
    if not field.heads or not field.rows:
        return np.zeros((0, 5))
    shape = (field.rows, field.heads, -1)
    dd, yy = (part.reshape(shape).double().square().sum(-1).numpy() for part in (field.d, field.y))
    ratio = _ratio(dd, yy)
    if field.nonfinite is not None:
        ratio[field.nonfinite.reshape(shape).any(-1).numpy()] = np.inf
    # `lower` takes a row's own number: an interpolation between two infinite ones would be none.
    return np.quantile(ratio, (0, 0.25, 0.5, 0.75, 1), axis=0, method="lower").T


def _by_position(field: ErrorField, rows: Array) -> tuple[NDArray[np.int64], Array, Array]:
    if not field.rows:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    at = field.row_position
    step = max(-(-int(at.max() - at.min() + 1) // POSITIONS), 1)
    bins = (at - at.min()) // step
    used = np.unique(bins)
    groups = [rows[bins == number] for number in used]
    median = np.array([np.quantile(group, 0.5, method="lower") for group in groups])
    return used * step + at.min(), median, np.array([group.max() for group in groups])


def _launches(field: ErrorField) -> tuple[tuple[int, str], ...]:
    """Where the launch number changes along the positions."""
    if not field.tokens:
        return ()
    launch = field.row_launch[:: field.slots]
    position = field.row_position[:: field.slots]
    phase = ["prefill"] * field.tokens if field.phase is None else [str(name) for name in field.phase]
    begins = np.flatnonzero(np.diff(launch, prepend=launch[0] - 1))
    return tuple((int(position[at]), phase[at]) for at in begins.tolist())
