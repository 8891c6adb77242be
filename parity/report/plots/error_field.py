"""Which rows and columns of one stage are wrong? The error field as a picture, with the tile grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from parity.fingerprint import ReducedField
from parity.metrics import COLUMN_BLOCK
from parity.report.plots.style import INK, PALE, VERMILION, Picture, empty, figure, finish, plain_ticks
from parity.report.text import count

LOST = 0.5
"""Relative error from which a cell counts as wrong in the message: half the oracle's norm, far over the 0.03 to 0.1 of
FP8 noise (half a step of E4M3 is 2^-4)."""

_MOST_LINES = 80


def draw_error_field(field: ReducedField) -> Picture:
    """Rows down (by position, or by expert and its rows), columns across; darker is worse, on a logarithmic scale.

    Thin lines: the kernel's row tiles where known (else none), and blocks of 128 columns; thick ones: where an expert
    begins. Cells that are not finite are black, with an arrow in the margin.
    """
    if not field.error.size:
        return empty(f"{field.name} has no element", "Nothing to draw: the field has no row or no column.")
    cells = field.error
    finite = cells[np.isfinite(cells)]
    high = max(float(finite.max(initial=0.0)), 1e-9)
    low = min(max(float(finite[finite > 0].min(initial=high)), high * 1e-4), high * 0.5)
    made = figure(8.0, 5.0)
    axis = made.subplots()
    axis.set_facecolor(PALE)
    shown = np.clip(np.where(np.isfinite(cells), cells, high), low, None)
    mesh = axis.pcolormesh(
        field.column_edges, field.row_edges, shown, cmap="cividis_r", norm=LogNorm(low, high), rasterized=True
    )
    bad = np.where(np.isfinite(cells), np.nan, 1.0)
    if not np.isfinite(cells).all():
        axis.pcolormesh(field.column_edges, field.row_edges, bad, cmap="gray", vmin=1, vmax=2, rasterized=True)
        middles = (field.row_edges[:-1] + field.row_edges[1:]) / 2
        rows = middles[~np.isfinite(cells).all(axis=1)]
        axis.plot([1.004 * field.width] * len(rows), rows, marker="<", linestyle="", color=INK, clip_on=False,
                  markersize=5)  # fmt: skip
    axis.set_xlim(0, field.width)
    axis.invert_yaxis()
    words = _grid(axis, field)
    if not np.isfinite(cells).all():
        words.append("black, arrow: not finite")
    by = "expert (its rows in the kernel's order)" if field.order == "expert" else "row, by position (tokens)"
    axis.set_ylabel(by, fontsize=8)
    axis.set_xlabel(f"column ({'; '.join(words)})" if words else "column", fontsize=8)
    axis.tick_params(labelsize=8)
    _label_experts(axis, field)
    bar = made.colorbar(mesh, ax=axis, pad=0.015)
    bar.set_label("relative error of the cell's worst row, |sut - oracle| / |oracle|", fontsize=8)
    plain_ticks(bar.ax.yaxis)
    bar.ax.tick_params(which="both", labelsize=7)
    title = _message(field)
    alt = (
        f"{title}. {cells.shape[0]} by {cells.shape[1]} cells over {count(field.rows, 'row')} of {field.width} columns."
    )
    return finish(made, title, alt)


def _grid(axis: Axes, field: ReducedField) -> list[str]:
    """Draw the lines; returns what they are."""
    edges = range(COLUMN_BLOCK, field.width, COLUMN_BLOCK)
    if len(edges) <= _MOST_LINES:
        for edge in edges:
            axis.axvline(edge, color=INK, linewidth=0.4, alpha=0.6)
    words = [f"lines down: every {COLUMN_BLOCK}"] if 0 < len(edges) <= _MOST_LINES else []
    inner = [row for row in field.tile_rows if row not in set(field.expert_starts)]
    if inner and len(inner) <= _MOST_LINES:
        for row in inner:
            axis.axhline(row, color=INK, linewidth=0.4, alpha=0.6)
        words.append(f"thin across: row tiles of {field.tile_m}")
    starts: Sequence[int] = field.expert_starts[1:] if len(field.experts) <= _MOST_LINES else ()
    for row in starts:
        axis.axhline(row, color=VERMILION, linewidth=1.3)
    return [*words, "thick across: the next expert"] if starts else words


def _label_experts(axis: Axes, field: ReducedField) -> None:
    if field.order != "expert":
        return
    middles = [start + load / 2 for start, load in zip(field.expert_starts, field.expert_loads, strict=True)]
    least = field.rows / 40  # room for one label
    shown: list[tuple[float, int]] = []
    for middle, number in zip(middles, field.experts, strict=True):
        if not shown or middle - shown[-1][0] >= least:
            shown.append((middle, number))
    axis.set_yticks([at for at, _ in shown], [str(number) for _, number in shown], fontsize=7)


def _message(field: ReducedField) -> str:
    cells, name = field.error, field.name
    if not np.isfinite(cells).all():
        return f"{name}: {100 * (~np.isfinite(cells)).mean():.2g} % of the cells hold values that are not finite"
    if not cells.any():
        return f"{name}: every element equals the oracle's"
    tall, wide = np.diff(field.row_edges), np.diff(field.column_edges)
    rows = np.sqrt(np.average(cells**2, axis=1, weights=wide)) >= LOST
    columns = np.sqrt(np.average(cells**2, axis=0, weights=tall)) >= LOST
    if rows.any() and not rows.all():
        share = float(tall[rows].sum() / field.rows)
        which = _experts_of(field, rows)
        what = "lost" if _all_zero(field) else "wrong"
        rest = _typical(cells[~rows])
        return f"{name}: up to {100 * share:.2g} % of the rows are {what}{which}; the rest errs by {rest}"
    if columns.all():
        return f"{name}: all rows are wrong, in all columns"
    if columns.any():
        first, last = np.flatnonzero(columns)[[0, -1]]
        where = f"columns {field.column_edges[first]} to {field.column_edges[last + 1] - 1}"
        share = f"{count(int(wide[columns].sum()), 'column')} of {field.width}"
        return f"{name}: {share} are wrong in most rows ({where}); the rest errs by {_typical(cells[:, ~columns])}"
    if (cells >= LOST).any():
        return (
            f"{name}: {100 * (cells >= LOST).mean():.2g} % of the cells are wrong; the rest errs by {_typical(cells)}"
        )
    return f"{name}: no row is lost; the typical cell errs by {_typical(cells)}, the worst by {cells.max():.2g}"


def _all_zero(field: ReducedField) -> bool:
    """Whether the SUT has zeros where it is wrong: the error of such a row is exactly the oracle's norm."""
    wrong = field.position_worst[field.position_worst >= LOST]
    return bool(len(wrong)) and float((np.abs(wrong - 1) < 1e-3).mean()) > 0.5


def _typical(cells: np.ndarray) -> str:
    return f"{float(np.median(cells)):.2g}" if cells.size else "0"


def _experts_of(field: ReducedField, rows: np.ndarray) -> str:
    """In which experts the wrong rows are, where that is a few of them."""
    if field.order != "expert":
        return ""
    at = np.searchsorted(field.expert_starts, field.row_edges[:-1][rows], side="right") - 1
    hit = sorted({field.experts[n] for n in at.tolist()})
    if len(hit) > 3 or len(hit) == len(field.experts):
        return f", in {len(hit)} of {count(len(field.experts), 'expert')}"
    return f", all in expert{'' if len(hit) == 1 else 's'} " + " and ".join(map(str, hit))
