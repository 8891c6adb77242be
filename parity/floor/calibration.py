"""Which floor follows from these clean runs?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.errors import UsageError
from parity.floor.bins import Bin
from parity.floor.floor import SOURCES, Floor
from parity.floor.gate import LEAST_RUNS, Gate, Scale, set_gate
from parity.floor.sample import FloorSample
from parity.records import Environment, Lineage, Recipe

FREE_LEVEL = 0.0025
"""What 400 runs can show by rank."""


def calibrate(
    samples: Sequence[FloorSample],
    *,
    recipe: Recipe,
    lineage: Lineage,
    level: float = 1e-3,
    source: str = SOURCES[0],
    environment: Environment | None = None,
) -> Floor:
    """A floor from clean runs of a recipe's emulation.

    samples: one a clean run, at least 4; their names must differ. level: share of clean runs that may exceed any gate;
    the modes (chained, isolated, distance) share it out evenly. A mode needs at least 4 runs of its own, or it has no
    gate. `free` is judged beside them: a finding never rests on it alone. It has the level of FREE_LEVEL or of the
    others, whichever is wider, needs as many runs as that takes by rank, and is measured without a gate before that.
    Raises UsageError for too few runs.
    """
    names = tuple(sample.run for sample in samples)
    if len(samples) < LEAST_RUNS or len(set(names)) != len(names):
        raise UsageError(
            place="calibration of a noise floor",
            expected=f"at least {LEAST_RUNS} clean runs of different names",
            found=f"{len(samples)}: {', '.join(names) or 'none'}",
            next_step="Run the recipe's emulation on more prompts; eight give a usable gate.",
        )
    scales: dict[Bin, Scale] = {}
    gates: dict[str, Gate] = {}
    modes = sorted({key.mode for sample in samples for key in sample.worst})
    for mode in modes:
        having = [sample for sample in samples if any(key.mode == mode for key in sample.worst)]
        keys = sorted({key for sample in having for key in sample.worst if key.mode == mode}, key=str)
        worst = np.array([[sample.worst.get(key, np.nan) for key in keys] for sample in having])
        orders = np.array([sample.order for sample in having])
        share = level / max(len([one for one in modes if one != "free"]), 1)
        share = max(share, FREE_LEVEL) if mode == "free" else share
        of_mode, gate = set_gate(worst, keys, share, orders=orders)
        scales |= {key: scale for key, scale in zip(keys, of_mode, strict=True) if scale is not None}
        # Against a free oracle a near-tie that flips makes a tail that no model of step 4 describes: rank alone judges.
        if gate is not None and (mode != "free" or gate.method == "conformal"):
            gates[mode] = gate
    documents = tuple(sorted({sample.document for sample in samples}))
    return Floor(recipe, lineage, names, scales, gates, documents, source, environment)
