"""Where does error arise and where is it inherited? Chained against isolated error, site by site down the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from parity.records import Comparison, Summary
from parity.report.plots.layer_stage_map import worst_by_site
from parity.report.plots.style import BLUE, GREY, INK, VERMILION, Picture, empty, figure, finish, plain_ticks
from parity.report.text import count, times

LEAST = 1e-3
"""Multiples of the floor below which a bitwise equal site (0) is drawn on a logarithmic axis."""

_NAMED = 6


def draw_error_by_depth(*, chained: Summary, isolated: Summary | None = None) -> Picture:
    """Worst slice over its floor, in order of computation: a line chained, markers isolated, the floor at 1.

    A site that stands over the floor in the line alone inherited its error; one whose marker stands over it adds error
    of its own. Sites without a score leave a gap; nonfinite ones stand at the top as crosses.
    """
    line = _scores(chained)
    marks = {} if isolated is None else _scores(isolated)
    sites = list(line) or list(marks)
    if not sites:
        return empty("Nothing was compared", "Neither summary holds a comparison.")
    judged = [s for s in (*line.values(), *marks.values()) if s is not None and math.isfinite(s)]
    if not judged and not any(s is not None for s in (*line.values(), *marks.values())):
        return empty("No site could be judged", f"None of {count(len(sites), 'site')} has a floor to be held against.")
    top = max([10.0, *judged]) * 3
    made = figure(min(max(7.0, 0.09 * len(sites)), 14.0), 4.0)
    axis = made.subplots()
    at = np.arange(len(sites))
    axis.plot(
        at, [_y(line.get(s), top) for s in sites], color=BLUE, linewidth=1.2, label="chained: error inherited too"
    )
    if marks:
        own = np.array([_y(marks.get(site), top) for site in sites])
        added = set(_adding(marks))
        over = np.array([site in added for site in sites])
        axis.plot(at[own <= 1], own[own <= 1], "o", color=GREY, markersize=3, label="isolated, within the floor")
        if over.any():
            axis.plot(
                at[over], own[over], "D", color=VERMILION, markeredgecolor=INK, markersize=6, zorder=3,
                label="isolated: error arises here",
            )  # fmt: skip
        for index in _run_starts(np.flatnonzero(over), len(sites))[:_NAMED]:
            late = index > 0.8 * len(sites)  # its name would leave the frame
            axis.annotate(
                sites[index], (at[index], own[index]), xytext=(-4 if late else 4, 6), textcoords="offset points",
                fontsize=7, color=INK, ha="right" if late else "left", parse_math=False,
            )  # fmt: skip
    bad = [
        n
        for n, s in enumerate(sites)
        for of in (line, marks)
        if of.get(s) is not None and not math.isfinite(of[s] or 0)
    ]
    if bad:
        axis.plot(bad, [top] * len(bad), "x", color=INK, markersize=4, zorder=4, label="not finite, or missing")
    axis.axhline(1.0, color=INK, linewidth=1.0, linestyle="--")
    axis.annotate(
        "floor", (1, 1), xycoords=("axes fraction", "data"), xytext=(3, -3), textcoords="offset points", fontsize=8
    )
    axis.set_yscale("log")
    axis.set_ylim(LEAST / 2, top * 2.5)
    plain_ticks(axis.yaxis)
    axis.set_ylabel(f"worst slice over its floor\n(multiples of the gate; lowest: {LEAST:g} or less)", fontsize=8)
    _mark_layers(axis, chained if line else isolated, sites)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7, loc="lower right", framealpha=0.9)
    title = _message(line, marks)
    return finish(made, title, f"{title}. Line and markers over {count(len(sites), 'site')} in order of computation.")


def _run_starts(numbers: np.ndarray, sites: int) -> list[int]:
    """Sites at least a tenth of the axis apart: names closer than that would cover each other."""
    kept: list[int] = []
    for number in numbers.tolist():
        if not kept or number - kept[-1] > sites / 10:
            kept.append(number)
    return kept


def _scores(summary: Summary) -> dict[str, float | None]:
    return {record.name: _score(record) for record in worst_by_site(summary).values()}


def _score(record: Comparison) -> float | None:
    if record.over_floor is not None:
        return record.over_floor
    return float("inf") if record.verdict.faulty else None


def _y(score: float | None, top: float) -> float:
    return float("nan") if score is None else min(max(score, LEAST), top) if math.isfinite(score) else top


def _mark_layers(axis: Axes, summary: Summary | None, sites: Sequence[str]) -> None:
    layer_of = {} if summary is None else {record.name: record.layer for record in summary.comparisons}
    starts = [n for n, site in enumerate(sites) if n == 0 or layer_of.get(site) != layer_of.get(sites[n - 1])]
    named = [(n, layer_of.get(sites[n])) for n in starts if layer_of.get(sites[n]) is not None]
    step = max(len(named) // 24, 1)
    for number, (n, _) in enumerate(named):
        if number % step == 0:
            axis.axvline(n - 0.5, color=GREY, linewidth=0.4)
    ends = [*starts[1:], len(sites)]
    middle = {n: (n + end - 1) / 2 for n, end in zip(starts, ends, strict=True)}
    after = [n for n in starts if layer_of.get(sites[n]) is None and n > 0]
    for n in after:
        axis.axvline(n - 0.5, color=GREY, linewidth=0.4)
    shown = named[::step]
    axis.set_xticks([middle[n] for n, _ in shown], [str(layer) for _, layer in shown], fontsize=8)
    axis.tick_params(axis="x", length=0)
    axis.set_xlabel("layer (its stages from left to right)", fontsize=8)
    axis.set_xlim(-1, len(sites))


def _adding(marks: dict[str, float | None]) -> list[str]:
    """Sites that add error of their own, in order of computation.

    A NaN spreads to all that read it: of the sites that are not finite, the first alone tells where it arises.
    """
    first = next((site for site, score in marks.items() if score == math.inf), None)
    return [s for s, score in marks.items() if s == first or (score is not None and 1 < score < math.inf)]


def _message(line: dict[str, float | None], marks: dict[str, float | None]) -> str:
    shows = [site for site, score in line.items() if score is not None and score > 1]
    adds = _adding(marks)
    if not shows and not adds:
        worst = max((s for s in (*line.values(), *marks.values()) if s is not None), default=0.0)
        return f"No site is over its floor, the worst at {times(worst)} of its gate"
    if not marks:
        over = f"{count(len(shows), 'site')} of {len(line)} over the floor"
        return f"{over}, from {shows[0]} on; where it arises is not known"
    if not adds:
        return f"{count(len(shows), 'site')} over the floor, yet none adds error of its own"
    inherits = [site for site in shows if site not in adds]
    rest = (
        f"; {count(len(inherits), 'other')} only {'inherits' if len(inherits) == 1 else 'inherit'} it"
        if inherits
        else ""
    )
    add = "adds" if len(adds) == 1 else "add"
    return f"{count(len(adds), 'site')} of {len(marks)} {add} error, the first {adds[0]}{rest}"
