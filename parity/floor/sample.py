"""How wrong was one clean run at its worst, bin by bin?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parity.errors import ValueRangeError
from parity.floor.bins import Bin, bin_layer, bin_ranges, deviations
from parity.metrics import SliceTable
from parity.records import site_name


@dataclass
class FloorSample:
    """The worst deviation of one clean run in every bin it has slices for. run: its name (prompt, schedule)."""

    run: str
    worst: dict[Bin, float] = field(default_factory=dict)

    def add(
        self,
        *,
        mode: str,
        stage: str,
        layer: int | None,
        phase: str,
        tables: Sequence[tuple[str, SliceTable]],
        position: NDArray[np.integer],
    ) -> None:
        """Take in the slices of one compared stage.

        tables: (kind, slices), as `parity.metrics.slice_tables` gives them. position: [N], of each row.
        Slices without a finite element pair (empty ones) leave no trace. Raises ValueRangeError for an infinite
        deviation: a clean run has none, and one would make room for everything.
        """
        for kind, table in tables:
            positions, sizes = bin_ranges(table, kind, position)
            for metric, values in deviations(kind, stage, table.moments).items():
                if np.isinf(values).any() or table.moments.nonfinite_sut.any():
                    raise ValueRangeError(
                        place=f"clean run {self.run}, {site_name(layer, stage)}, {kind} {metric}",
                        expected="finite deviations, since the run is clean",
                        found=f"{np.isinf(values).sum()} infinite, {table.moments.nonfinite_sut.sum()} spoilt",
                        next_step="Look at this stage: the oracle is zero or the emulation not finite there.",
                    )
                measured = ~np.isnan(values)
                keys = np.stack([positions[measured], sizes[measured]], axis=1)
                for pair in np.unique(keys, axis=0):
                    worst = values[measured][(keys == pair).all(1)].max()
                    key = Bin(mode, stage, bin_layer(kind, layer), kind, metric, phase, int(pair[0]), int(pair[1]))
                    self.worst[key] = max(self.worst.get(key, 0.0), float(worst))
