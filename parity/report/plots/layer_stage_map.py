"""Where is the error? A map of layers by stages, each cell the worst slice over its floor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from parity.records import Comparison, Summary
from parity.report.plots.style import figure, save


def plot_layer_stage_map(panels: Sequence[tuple[str, Summary]], path: Path) -> Path:
    """Write one panel a (title, summary): rows are layers, columns stages, colour log10 of worst slice over floor.

    White is the floor itself, blue below it, red above; a cell above its floor also carries its number, so that the
    map is legible without colour. Stages outside the layers stand in a row of their own, below.
    """
    stages = list(dict.fromkeys(c.stage for _, summary in panels for c in summary.comparisons))
    inside = sorted({c.layer for _, summary in panels for c in summary.comparisons if c.layer is not None})
    layers: list[int | None] = [*inside, None]
    made = figure(max(7.0, 0.48 * len(stages) + 2.2), 1.3 + len(panels) * (0.4 * len(layers) + 0.5))
    axes = made.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    image = None
    for axis, (title, summary) in zip(axes, panels, strict=True):
        cells = {(c.layer, c.stage): c for c in summary.comparisons}
        values = np.array([[_log(cells.get((layer, stage))) for stage in stages] for layer in layers])
        image = axis.imshow(values, cmap="RdBu_r", norm=TwoSlopeNorm(0.0, -1.5, 1.5), aspect="auto")
        for row, layer in enumerate(layers):
            for column, stage in enumerate(stages):
                cell = cells.get((layer, stage))
                if cell is not None and cell.over_floor is not None and cell.over_floor > 1:
                    shade = "white" if cell.over_floor > 10 else "black"
                    axis.text(column, row, _short(cell.over_floor), ha="center", va="center", fontsize=7, color=shade)
        axis.set_yticks(range(len(layers)), [f"layer {n}" if n is not None else "model" for n in layers], fontsize=8)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_facecolor("#e8e8e8")
    axes[-1].set_xticks(range(len(stages)), stages, rotation=60, ha="right", fontsize=8)
    if image is not None:
        bar = made.colorbar(image, ax=list(axes), shrink=0.8, pad=0.01, ticks=[-1, 0, 1])
        bar.ax.set_yticklabels(["0.1", "1 = floor", "10"], fontsize=8)
        bar.set_label("worst slice over its floor", fontsize=8)
    return save(made, path)


def _log(cell: Comparison | None) -> float:
    if cell is None or cell.over_floor is None:
        return float("nan")
    return float(np.log10(max(cell.over_floor, 1e-3)))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"
