"""Does each launch reach all the work there is? Grid arithmetic against the true loads, no oracle needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity.trace import Trace

BY_ROW = ("tokens", "rows")
"""Extents that count the rows of the capture, one each; those of an attention launch count a request's own."""


@dataclass(frozen=True)
class Coverage:
    """What one launch covered of one extent, and what it had to cover.

    extent: the launch's own name for it (`rows_per_expert`). covered: how far the grid reaches. required: the largest
    true load. tile: rows a tile. loads: the load of each group (expert), empty when the extent is not grouped.
    """

    name: str
    layer: int | None
    stage: str
    extent: str
    covered: int
    required: int
    tile: int | None
    grid: tuple[int, ...]
    loads: tuple[int, ...] = ()

    @property
    def truncated(self) -> bool:
        """True when the grid ends before the work does."""
        return self.covered < self.required

    @property
    def lost(self) -> int:
        """Units of work that no program of the grid reaches."""
        return sum(max(load - self.covered, 0) for load in self.loads or (self.required,))

    def line(self) -> str:
        """The launch in one line, as an engine would log it."""
        end = f"grid_cap={self.covered} truncated={str(self.truncated).lower()}"
        if not self.loads:
            return f"{self.name}: {self.extent}={self.required} {end}"
        tokens = sum(self.loads)
        return f"{self.name}: rows={tokens} avg={tokens / len(self.loads):.0f} max={self.required} {end}"


def launch_coverage(trace: Trace) -> tuple[Coverage, ...]:
    """Coverage of every launch that a trace records, in order of capture.

    What a launch had to cover is what it states, but never less than the capture itself shows: an extent by expert is
    held against the loads of its geometry (`expert_offsets`), one of tokens or of rows against the rows it made, and
    not against what the host believed.
    Captures without a launch are passed over: they claim nothing.
    """
    found = []
    for capture in trace.captures:
        covers = capture.launch.get("covers", {})
        for extent, covered in covers.items():
            offsets = capture.geometry.get("expert_offsets")
            grouped = "expert" in extent and extent.rpartition(".")[2] != "experts"
            loads = tuple(int(n) for n in np.diff(offsets)) if offsets is not None and grouped else ()
            required = max(loads) if loads else int(capture.launch.get("requires", {}).get(extent, covered))
            if extent in BY_ROW and not str(capture.launch.get("op", "")).startswith("attention"):
                required = max(required, len(capture.rows))
            found.append(
                Coverage(
                    name=capture.name,
                    layer=capture.layer,
                    stage=capture.stage,
                    extent=extent,
                    covered=int(covered),
                    required=required,
                    tile=capture.geometry.get("tile_m"),
                    grid=tuple(capture.launch.get("grid", ())),
                    loads=loads,
                )
            )
    return tuple(found)
