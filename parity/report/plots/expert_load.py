"""What did the launch cover? Rows of each expert against the rows its grid reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from parity.report.plots.style import BLUE, GREY, VERMILION, figure, save


def plot_expert_load(loads: Mapping[int, Sequence[int]], cap: int, tile: int, title: str, path: Path) -> Path:
    """One panel a layer of `loads` (rows by expert): bars up to `cap` rows are computed, the rest lost.

    cap: rows an expert can have before the grid ends. tile: rows a tile; thin lines stand at tile edges.
    """
    made = figure(max(6.0, 2.6 * len(loads)), 3.2)
    axes = made.subplots(1, len(loads), squeeze=False, sharey=True)[0]
    top = max(max(rows) for rows in loads.values()) * 1.08
    for axis, (layer, rows) in zip(axes, loads.items(), strict=True):
        counts = np.array(rows)
        for edge in range(tile, int(top), tile):
            axis.axhline(edge, color=GREY, linewidth=0.3)
        axis.bar(range(len(counts)), np.minimum(counts, cap), color=BLUE, label="computed")
        axis.bar(
            range(len(counts)), np.maximum(counts - cap, 0), bottom=np.minimum(counts, cap), color=VERMILION,
            hatch="///", edgecolor="white", label="never written",
        )  # fmt: skip
        axis.axhline(cap, color="black", linewidth=1.2)
        axis.set_title(f"layer {layer}", fontsize=9)
        axis.set_xlabel("expert", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_ylim(0, top)
    axes[0].set_ylabel(f"expert rows (lines: tiles of {tile})", fontsize=8)
    axes[-1].legend(fontsize=7, loc="upper right")
    made.suptitle(title, fontsize=10)
    return save(made, path)
