"""Do the busy experts err? Rows of each expert, the reach of the grid, and the error of each expert below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from parity.fingerprint import ReducedField
from parity.invariance import Coverage
from parity.report.plots.style import BLUE, GREY, INK, VERMILION, Picture, empty, figure, finish
from parity.report.text import count

ALIKE = 3.0
"""The worst expert is called apart from three times a typical one's error on, as a head is (`heads.STANDS_OUT`)."""

_MOST_LABELLED = 24
_MOST_TILES = 60


@dataclass(frozen=True)
class ExpertLoads:
    """One layer's experts. experts: ids; rows: of each; error: relative error of each, None where not measured.

    cap: rows that the grid reaches, tile: rows a tile; None where the launch does not say.
    """

    name: str
    experts: tuple[int, ...]
    rows: tuple[int, ...]
    error: tuple[float, ...] | None = None
    cap: int | None = None
    tile: int | None = None


def expert_loads(coverage: Sequence[Coverage], fields: Sequence[ReducedField]) -> list[ExpertLoads]:
    """Loads of every site that has experts: from its launch, with the error of its field where that was measured."""
    by_name = {field.name: field for field in fields if field.experts}
    launches = {launch.name: launch for launch in coverage if launch.loads}
    found = []
    for name in dict.fromkeys([*launches, *by_name]):
        launch, field = launches.get(name), by_name.get(name)
        if launch is not None:
            experts, rows = tuple(range(len(launch.loads))), launch.loads
            error = dict(zip(field.experts, field.expert_error.tolist(), strict=True)) if field else None
            errors = None if error is None else tuple(error.get(number, float("nan")) for number in experts)
            found.append(ExpertLoads(name, experts, rows, errors, launch.covered, launch.tile))
        elif field is not None:
            errors = tuple(field.expert_error.tolist())
            found.append(ExpertLoads(name, field.experts, field.expert_loads, errors, None, field.tile_m))
    return found


def draw_expert_load(sites: Sequence[ExpertLoads]) -> Picture:
    """One column a site, experts by load: bars up to the grid's reach are computed, the rest lost; error below.

    Thin lines stand at tile edges, the thick one where the grid ends. At most six sites.
    """
    held = [site for site in sites if site.rows][:6]
    if not held:
        return empty("No expert to draw", "None of the sites shows how many rows each expert had.")
    with_error = any(site.error is not None for site in held)
    made = figure(min(max(6.5, 2.7 * len(held)), 14.0), 4.8 if with_error else 3.4)
    axes = made.subplots(2 if with_error else 1, len(held), squeeze=False, sharex="col", sharey="row")
    top = max(max(max(site.rows), site.cap if site.cap is not None and _lost(site) else 0) for site in held) * 1.08
    for column, site in enumerate(held):
        order = np.argsort([-rows for rows in site.rows], kind="stable")
        _draw_rows(axes[0, column], site, order, max(top, 1.0))
        if with_error:
            _draw_error(axes[1, column], site, order)
        bottom = axes[-1, column]
        step = 1 if len(order) <= _MOST_LABELLED else max(len(order) // 8, 1)
        at = range(0, len(order), step)
        bottom.set_xticks(at, [str(site.experts[order[n]]) for n in at], fontsize=7)
        bottom.set_xlabel("expert, busiest first", fontsize=8)
    tile = next((site.tile for site in held if site.tile), None)
    axes[0, 0].set_ylabel("rows of the expert" + (f"\n(lines: tiles of {tile})" if tile else ""), fontsize=8)
    handles = dict(zip(*reversed(axes[0, -1].get_legend_handles_labels()), strict=True))
    axes[0, -1].legend(list(handles.values()), list(handles), fontsize=7, loc="upper right")
    if with_error:
        axes[1, 0].set_ylabel("relative error\n|sut - oracle| / |oracle|", fontsize=8)
        told = next((axis for axis in axes[1] if axis.get_legend_handles_labels()[1]), None)
        if told is not None:
            told.legend(fontsize=7, loc="upper right")
    title = _message(held)
    return finish(made, title, f"{title}. Experts of {', '.join(site.name for site in held)}, busiest first.")


def _draw_rows(axis: Axes, site: ExpertLoads, order: np.ndarray, top: float) -> None:
    rows = np.array(site.rows)[order]
    cap = site.cap if site.cap is not None else int(rows.max(initial=0))
    if site.tile and top / site.tile <= _MOST_TILES:
        for edge in range(site.tile, int(top), site.tile):
            axis.axhline(edge, color=GREY, linewidth=0.3)
    at = np.arange(len(rows))
    axis.bar(at, np.minimum(rows, cap), color=BLUE, label="computed" if site.cap is not None else "rows")
    if (rows > cap).any():
        axis.bar(
            at, np.maximum(rows - cap, 0), bottom=np.minimum(rows, cap), color=VERMILION, hatch="///",
            edgecolor="white", label="never written",
        )  # fmt: skip
    if site.cap is not None and site.cap < top:
        axis.axhline(cap, color=INK, linewidth=1.2, label="the grid ends")
    axis.set_title(site.name, fontsize=9, parse_math=False)
    axis.tick_params(labelsize=7)
    axis.set_ylim(0, top)


def _draw_error(axis: Axes, site: ExpertLoads, order: np.ndarray) -> None:
    axis.tick_params(labelsize=7)
    if site.error is None:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, fontsize=8)
        return
    error = np.array(site.error)[order]
    lost = np.array(site.rows)[order] > (site.cap if site.cap is not None else np.inf)
    at, finite = np.arange(len(error)), np.isfinite(error)
    axis.vlines(at[finite], 0, error[finite], color=GREY, linewidth=0.8)
    axis.plot(at[finite & ~lost], error[finite & ~lost], "o", color=BLUE, markersize=4)
    axis.plot(
        at[finite & lost], error[finite & lost], "D", color=VERMILION, markeredgecolor=INK, markersize=5,
        label="an expert with lost rows" if lost.any() else None,
    )  # fmt: skip
    axis.plot(at[np.isinf(error)], [0] * int(np.isinf(error).sum()), "x", color=INK, markeredgewidth=2)
    axis.set_ylim(0, max(axis.get_ylim()[1], error[finite].max(initial=1e-9) * 1.1))


def _lost(site: ExpertLoads) -> int:
    return 0 if site.cap is None else sum(max(rows - site.cap, 0) for rows in site.rows)


def _message(sites: Sequence[ExpertLoads]) -> str:
    lost, rows = sum(map(_lost, sites)), sum(sum(site.rows) for site in sites)
    short = [site for site in sites if _lost(site)]
    if short:
        caps = sorted({site.cap for site in short if site.cap is not None})
        reach = f"{caps[0]}" if len(caps) == 1 else f"{caps[0]} to {caps[-1]}"
        return f"The grid ends at {reach} rows an expert: {lost} of {rows} expert rows are never written"
    reached = all(site.cap is not None for site in sites)
    told = "Every launch reaches all rows of its experts" if reached else f"{count(rows, 'expert row')}"
    worst = max(
        ((error, site, n) for site in sites for n, error in enumerate(site.error or ()) if np.isfinite(error)),
        key=lambda found: found[0], default=None,
    )  # fmt: skip
    if worst is None:
        return told
    error, site, n = worst
    usual = float(np.nanmedian(np.array(site.error)))
    if error < ALIKE * usual:
        return f"{told}; all experts err alike, the worst by {error:.2g}, a typical one by {usual:.2g}"
    return (
        f"{told}; expert {site.experts[n]} of {site.name} errs most, {error:.2g} against {usual:.2g} of a typical one"
    )
