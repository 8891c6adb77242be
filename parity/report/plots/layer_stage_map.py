"""Where is the error? A map of layers by stages, each cell the worst slice over its floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap

from parity.compare.table import cell_words
from parity.records import Comparison, Summary, Verdict
from parity.report.plots.style import ABOVE, BELOW, BOUNDS, INK, PALE, Picture, empty, figure, finish
from parity.report.text import count, spans, times

_MOST_NUMBERED = 40
"""Layers up to which cells are tall enough (0.3 inch) for a number at 7 points."""

_MARKS = {"N": "not finite", "x": "other shape or dtype", "-": "missing", "?": "no verdict"}
"""What the marks in the cells say; of these a map explains what it shows."""


def draw_layer_stage_map(panels: Sequence[tuple[str, Summary]]) -> Picture:
    """One panel a (name, summary): layers down, stages across, colour and number the worst slice over its floor.

    Pale blue lies below the floor, orange to brown above it, darker with every class, so that the map is legible in
    grey; what is over the floor or could not be judged also carries the mark of `parity compare`'s table. Stages
    outside the layers stand in a row of their own, below. Several phases of a site: the worst is shown.
    """
    comparisons = [record for _, summary in panels for record in summary.comparisons]
    if not comparisons:
        return empty("Nothing was compared", "No panel holds a comparison: there is no map to draw.")
    stages = list(dict.fromkeys(record.stage for record in comparisons))
    inside = sorted({record.layer for record in comparisons if record.layer is not None})
    outside: list[int | None] = [None] if any(record.layer is None for record in comparisons) else []
    layers: list[int | None] = [*inside, *outside]
    tall = 0.3 if len(layers) <= _MOST_NUMBERED else 0.13
    made = figure(max(7.0, 0.42 * len(stages) + 2.2), 2.0 + len(panels) * (tall * len(layers) + 0.45))
    axes = made.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    colours = ListedColormap([*BELOW, *ABOVE])
    norm = BoundaryNorm([*BOUNDS, 1e12], colours.N)
    image: Any = None
    for axis, (name, summary) in zip(axes, panels, strict=True):
        cells = worst_by_site(summary)
        values = np.array([[_height(cells.get((layer, stage))) for stage in stages] for layer in layers])
        image = axis.imshow(values, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        axis.set_title(f"{name}: {_panel_words(summary)}", fontsize=9, loc="left", parse_math=False)
        _mark(axis, cells, layers, stages, numbered=len(layers) <= _MOST_NUMBERED)
        _label_layers(axis, layers)
    axes[-1].set_xticks(range(len(stages)), stages, rotation=60, ha="right", fontsize=8, parse_math=False)
    held = [worst_by_site(summary) for _, summary in panels]
    shown = {
        cell_words(record).removesuffix("!")
        for cells in held
        for record in cells.values()
        if not record.verdict.healthy
    }
    words = [f"{mark}: {meaning}" for mark, meaning in _MARKS.items() if mark in shown]
    if any(len(cells) < len(layers) * len(stages) for cells in held):
        words.append("grey: no such stage there")
    axes[-1].set_xlabel("stage, in order of computation" + ("\n" + ", ".join(words) if words else ""), fontsize=8)
    bar = made.colorbar(image, ax=list(axes), shrink=min(1.0, 5 / made.get_figheight()), pad=0.01, spacing="uniform")
    bar.set_ticks([*BOUNDS], labels=[f"{bound:g}" if bound != 1 else "1 = floor" for bound in BOUNDS])
    bar.ax.tick_params(labelsize=7)
    bar.set_label("worst slice over its floor (multiples of the gate)", fontsize=8, labelpad=8)
    title = _message(panels)
    alt = f"Map of {len(layers)} rows of layers by {count(len(stages), 'stage')}. " + "; ".join(
        f"{name}: {_panel_words(summary)}" for name, summary in panels
    )
    return finish(made, title, alt)


def worst_by_site(summary: Summary) -> dict[tuple[int | None, str], Comparison]:
    """The comparison that says most of each (layer, stage): faulty before unjudged before healthy, then the worst."""
    cells: dict[tuple[int | None, str], Comparison] = {}
    for record in summary.comparisons:
        key = (record.layer, record.stage)
        if key not in cells or _badness(record) > _badness(cells[key]):
            cells[key] = record
    return cells


def _badness(record: Comparison) -> tuple[bool, bool, float]:
    return record.verdict.faulty, not record.verdict.healthy, -1.0 if record.over_floor is None else record.over_floor


def _height(record: Comparison | None) -> float:
    if record is None:
        return float("nan")
    if record.over_floor is None:
        return 1e6 if record.verdict.faulty else float("nan")
    return float(np.nan_to_num(record.over_floor, nan=1e6, posinf=1e6))


def _mark(
    axis: Axes, cells: dict[tuple[int | None, str], Comparison], layers: Sequence[int | None], stages: Sequence[str],
    *, numbered: bool,
) -> None:  # fmt: skip
    axis.set_facecolor(PALE)
    for row, layer in enumerate(layers):
        for column, stage in enumerate(stages):
            record = cells.get((layer, stage))
            if record is None or record.verdict.healthy:
                continue
            mark = cell_words(record).removesuffix("!") if numbered else "" if record.verdict.faulty else "?"
            dark = record.verdict.faulty and _height(record) >= 10
            axis.text(
                column, row, mark, ha="center", va="center", fontsize=7 if numbered else 5,
                color="white" if dark else INK, parse_math=False,
            )  # fmt: skip


def _label_layers(axis: Axes, layers: Sequence[int | None]) -> None:
    step = 1 if len(layers) <= _MOST_NUMBERED else 4
    at = [row for row, layer in enumerate(layers) if layer is None or row % step == 0]
    axis.set_yticks(at, ["model" if layers[row] is None else str(layers[row]) for row in at], fontsize=7)
    axis.set_ylabel("layer", fontsize=8)


def _panel_words(summary: Summary) -> str:
    over = [record for record in worst_by_site(summary).values() if record.verdict.faulty]
    unjudged = sum(not r.verdict.healthy and not r.verdict.faulty for r in worst_by_site(summary).values())
    total = len(worst_by_site(summary))
    if not total:
        return "nothing was compared"
    open_ends = f", {unjudged} without a verdict" if unjudged else ""
    if not over:
        return f"none of {count(total, 'site')} over the floor{open_ends}"
    return f"{len(over)} of {count(total, 'site')} over the floor, the first {over[0].name}{open_ends}"


def _message(panels: Sequence[tuple[str, Summary]]) -> str:
    """What is seen: of the isolated comparisons where there are any, since those say where error arises."""
    chosen = next((s for _, s in panels if any(c.mode == "isolated" for c in s.comparisons)), panels[0][1])
    cells = worst_by_site(chosen).values()
    over = [record for record in cells if record.verdict.faulty]
    isolated = any(record.mode == "isolated" for record in cells)
    if not over:
        judged = [record for record in cells if record.verdict.healthy]
        if not judged:
            return f"None of {count(len(cells), 'site')} could be judged"
        worst = max((r for r in judged if r.over_floor is not None), key=lambda r: r.over_floor or 0.0, default=None)
        near = "" if worst is None else f"; the worst slice stands at {times(worst.over_floor or 0.0)} of its gate"
        return f"No site is over its floor{near}"
    lost = [record for record in over if record.verdict is Verdict.NONFINITE]
    if isolated and lost and lost[0] is over[0]:
        # A NaN spreads to all that read it: of the sites that are not finite, the first alone tells where it arises.
        rest = f"; {count(len(lost) - 1, 'later site')} {'holds' if len(lost) == 2 else 'hold'} such values too"
        return f"Values that are not finite arise at {over[0].name}{rest if len(lost) > 1 else ''}"
    first = over[0].stage
    layers = [record.layer for record in over if record.stage == first and record.layer is not None]
    where = f"{first} of layer{'' if len(layers) == 1 else 's'} {spans(layers)}" if layers else first
    others = list(dict.fromkeys(record.stage for record in over if record.stage != first))
    more = "" if not others else f", and at {others[0]}" if len(others) == 1 else f", and at {len(others)} other stages"
    worst = max((record.over_floor or 0.0 for record in over if record.stage == first), default=0.0)
    size = f", up to {times(worst)} times its floor" if worst > 0 and np.isfinite(worst) else ""
    return f"Error {'arises' if isolated else 'shows first'} at {where}{size}{more}"
