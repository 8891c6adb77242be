"""Does each launch reach all the work there is? Grid arithmetic against the true loads, no oracle needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity.trace import Trace


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
        tokens = sum(self.loads)
        mean = tokens / len(self.loads) if self.loads else self.required
        return (
            f"{self.name}: rows={tokens or self.required} avg={mean:.0f} max={self.required} grid_cap={self.covered}"
            f" truncated={str(self.truncated).lower()}"
        )


def launch_coverage(trace: Trace) -> tuple[Coverage, ...]:
    """Coverage of every launch that a trace records, in order of capture.

    A launch that states its extent by group is held against the loads its geometry shows (`expert_offsets`), not
    against what the host believed. Captures without a launch are passed over: they claim nothing.
    """
    found = []
    for capture in trace.captures:
        covers = capture.launch.get("covers", {})
        for extent, covered in covers.items():
            offsets = capture.geometry.get("expert_offsets")
            loads = tuple(int(n) for n in np.diff(offsets)) if offsets is not None and "expert" in extent else ()
            required = max(loads) if loads else int(capture.launch.get("requires", {}).get(extent, covered))
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
