"""What does a comparison look like in a terminal, with colour and without?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from parity.records import Comparison, Summary, Verdict

_STYLE = {True: "green", False: "bold red", None: "yellow"}

ROOMY = 120
"""Characters a line from which all numbers of a table fit beside names and slices."""

LEGEND = (
    "number: worst slice over its floor; ! over 1; = bitwise equal; N nonfinite; x shape or dtype; - missing; "
    "? no verdict"
)


def layer_table(summary: Summary, *, only_unhealthy: bool = False, width: int = ROOMY) -> Table:
    """One row a site and phase: cosine, norm ratio over rows, worst slice in words, over floor, expert overlap.

    only_unhealthy: leave out what is cleared; the caption says how many rows that is. Columns that say nothing (no
    ids among the rows, one phase throughout) are left out. width: characters a line; with fewer than ROOMY the
    numbers of the whole tensor are left out, so that the worst slice stays to be read.
    """
    shown = [c for c in summary.comparisons if not (only_unhealthy and c.verdict.healthy)]
    columns: dict[str, tuple[JustifyMethod, list[Text]]] = {
        "site": ("left", [Text(c.name) for c in shown]),
        "phase": ("left", [Text(c.phase) for c in shown]),
        "verdict": ("left", [Text(c.verdict.value, style=_STYLE[_state(c)]) for c in shown]),
        "cosine": ("right", [Text(_number(c.whole.get("cosine"), ".6f")) for c in shown]),
        "norm ratio": ("right", [Text(norm_ratio_words(c)) for c in shown]),
        "over floor": ("right", [Text(over_floor_words(c.over_floor), style=_STYLE[_state(c)]) for c in shown]),
        "worst slice": ("left", [Text(worst_words(c)) for c in shown]),
        "experts in common": ("left", [Text(overlap_words(c)) for c in shown]),
    }
    if not any(columns["experts in common"][1]):
        del columns["experts in common"]
    if len({c.phase for c in shown}) == 1:
        del columns["phase"]
    left_out = [name for name in ("cosine", "norm ratio", "experts in common") if name in columns and width < ROOMY]
    for name in left_out:
        del columns[name]
    table = Table(title="Stage by stage, in order of computation", title_justify="left", pad_edge=False)
    for name, (justify, _) in columns.items():
        table.add_column(name, justify=justify, no_wrap=name != "worst slice")
    for row in zip(*(cells for _, cells in columns.values()), strict=True):
        table.add_row(*row)
    hidden = len(summary.comparisons) - len(shown)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary.verdicts.items()) or "nothing was compared"
    note = f" ({hidden} healthy not shown)" if hidden else ""
    less = f"; a window of {ROOMY} characters shows {', '.join(left_out)} too" if left_out else ""
    table.caption = f"{len(summary.comparisons)} comparisons: {counts}{note}{less}"
    table.caption_justify = "left"
    return table


def floor_map(comparisons: Iterable[Comparison], *, title: str = "Worst slice over its floor") -> Table:
    """Stages down, layers across, in each cell the worst phase's score over the floor; `LEGEND` explains the marks."""
    cells: dict[tuple[str, int | None], Comparison] = {}
    stages: list[str] = []
    for comparison in comparisons:
        key = (comparison.stage, comparison.layer)
        if key not in cells or _badness(comparison) > _badness(cells[key]):
            cells[key] = comparison
        if comparison.stage not in stages:
            stages.append(comparison.stage)
    layers = sorted({layer for _, layer in cells if layer is not None})
    outside = any(layer is None for _, layer in cells)
    table = Table(title=title, title_justify="left", caption=LEGEND, caption_justify="left", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for name in [str(layer) for layer in layers] + (["outside"] if outside else []):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        row = [cells.get((stage, layer)) for layer in [*layers, *([None] if outside else [])]]
        table.add_row(stage, *(Text("") if c is None else Text(cell_words(c), style=_STYLE[_state(c)]) for c in row))
    return table


def cell_words(comparison: Comparison) -> str:
    """A cell of the map, complete without its colour."""
    marks = {
        Verdict.MATCH: "=",
        Verdict.NONFINITE: "N!",
        Verdict.SHAPE_MISMATCH: "x!",
        Verdict.DTYPE_MISMATCH: "x!",
        Verdict.MISSING_IN_SUT: "-!",
        Verdict.MISSING_IN_ORACLE: "-",
    }
    if comparison.verdict in marks:
        return marks[comparison.verdict]
    words = over_floor_words(comparison.over_floor)
    if comparison.verdict is Verdict.EXCEEDS_FLOOR:
        return words + "!"
    return words if comparison.verdict.healthy else f"{words}?".lstrip("-")


def over_floor_words(over: float | None) -> str:
    """`0.62`, `8.4`, `350`, `inf`; `-` without a floor."""
    if over is None:
        return "-"
    return "inf" if math.isinf(over) else f"{over:.2f}" if over < 10 else f"{over:.0f}"


def norm_ratio_words(comparison: Comparison) -> str:
    """Mean and standard deviation over rows."""
    mean, sd = comparison.whole.get("norm_ratio_mean"), comparison.whole.get("norm_ratio_sd")
    return "" if mean is None or sd is None else f"{mean:.4f} +/- {sd:.4f}"


def worst_words(comparison: Comparison) -> str:
    """The worst slice and the metric that says so; for a pair that was not measured, why."""
    if not comparison.worst:
        return comparison.reason
    first = comparison.worst[0]
    if first.by == "margin" or "margin" in first.metrics:
        return f"{first.where} (margin {first.metrics['margin']:.3g})"
    metric = first.by or "rel_l2"
    return f"{first.where} ({metric} {first.metrics.get(metric, float('nan')):.3g})"


def overlap_words(comparison: Comparison) -> str:
    """`1.98 of 2, 98.2 % of tokens all`, for stages of expert ids."""
    whole = comparison.whole
    if "overlap" not in whole:
        return ""
    return f"{whole['overlap']:.2f} of {whole['top_k']:.0f}, {100 * whole['complete']:.1f} % of tokens all"


def _state(comparison: Comparison) -> bool | None:
    return True if comparison.verdict.healthy else False if comparison.verdict.faulty else None


def _badness(comparison: Comparison) -> tuple[bool, bool, float]:
    over = -1.0 if comparison.over_floor is None else comparison.over_floor
    return comparison.verdict.faulty, not comparison.verdict.healthy, over


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
