"""What error does a correct implementation of this recipe show, and how far over it is a slice?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parity.errors import UsageError
from parity.floor.bins import Bin, bin_layer, bin_ranges, deviations
from parity.floor.gate import LEAST_RUNS, Gate, Scale, set_gate, substitute_sizes
from parity.floor.sample import FloorSample
from parity.floor.stored import parse_gates, parse_lineage, parse_recipe, parse_runs, parse_scales
from parity.metrics import SliceTable
from parity.records import Lineage, Recipe

FORMAT, VERSION = "parity-floor", 1
LAST_RANGE = 16  # positions up to 4^15


@dataclass(frozen=True)
class Floor:
    """A noise floor: scales by bin, a gate for each mode, and what they were calibrated on.

    scales: what each bin's worst deviation is in clean runs. runs: names of the clean runs.
    """

    recipe: Recipe
    lineage: Lineage
    runs: tuple[str, ...]
    scales: Mapping[Bin, Scale]
    gates: Mapping[str, Gate]

    def scale(self, key: Bin) -> Scale | None:
        """Scale of a bin, or of the nearest calibrated bin of the same key whose errors are no smaller.

        For larger slices: the nearest smaller size (it averages over fewer rows), else a size up to two octaves larger,
        scaled up (`substitute_sizes`). For rows: a later range of positions (its error has more context to come from).
        Beyond the last calibrated position, and further below the smallest calibrated size, there is none: None.
        """
        if key.position >= 0:
            near = [(key._replace(position=position), 1.0) for position in range(key.position, LAST_RANGE)]
        else:
            near = [(key._replace(size=size), 1.0) for size in range(key.size, min(key.size, 0) - 1, -1)]
            near += [
                (key._replace(size=size), factor) for size, factor in substitute_sizes(key.size) if size > key.size
            ]
        for other, factor in near:
            scale = self.scales.get(other)
            if scale is not None and scale.counts:
                return scale.times(factor)
        return None

    def gate(self, key: Bin) -> float | None:
        """Largest deviation of that bin that is still within the floor; None without a floor."""
        scale, gate = self.scale(key), self.gates.get(key.mode)
        if scale is not None and scale.centre == 0:
            return 0.0
        return None if scale is None or gate is None else scale.at(gate.z)

    def judge(
        self,
        *,
        mode: str,
        stage: str,
        layer: int | None,
        phase: str,
        kind: str,
        table: SliceTable,
        position: NDArray[np.integer],
    ) -> dict[str, NDArray[np.float64]]:
        """Deviation over gate of every slice, metric by metric: above 1 is over the floor.

        NaN: no floor for that slice, or nothing in it to measure. A bin whose clean deviation is exactly 0 gives 0 for
        equality and inf for anything else.
        """
        positions, sizes = bin_ranges(table, kind, position)
        result = {}
        for metric, values in deviations(kind, stage, table.moments).items():
            over = np.full(len(table), np.nan)
            for at, size in set(zip(positions.tolist(), sizes.tolist(), strict=True)):
                gate = self.gate(Bin(mode, stage, bin_layer(kind, layer), kind, metric, phase, at, size))
                if gate is not None:
                    inside = (positions == at) & (sizes == size)
                    with np.errstate(divide="ignore", invalid="ignore"):
                        ratio = values[inside] / gate
                    over[inside] = np.where(values[inside] == 0, 0.0, ratio)
            result[metric] = over
        return result

    def save(self, path: Path) -> None:
        """Write as JSON, with the samples' sizes and the gates."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "recipe": asdict(self.recipe),
            "lineage": asdict(self.lineage),
            "runs": list(self.runs),
            "gates": {
                mode: {"z": gate.z, "level": gate.level, "run_z": list(gate.run_z)} for mode, gate in self.gates.items()
            },
            "bins": [
                [*key, scale.centre, scale.spread, scale.runs, scale.counts]
                for key, scale in sorted(self.scales.items(), key=lambda item: str(item[0]))
            ],
        }
        path.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")

    @staticmethod
    def load(path: Path) -> Floor:
        """Read what `save` wrote. Raises UsageError for another format or version, or a field of another kind."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise _unreadable(path, str(error)) from error
        if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
            found = {k: content.get(k) for k in ("format", "version")} if isinstance(content, dict) else type(content)
            raise _unreadable(path, str(found))
        try:
            return Floor(
                recipe=parse_recipe(content.get("recipe")),
                lineage=parse_lineage(content.get("lineage")),
                runs=parse_runs(content.get("runs")),
                scales=parse_scales(content.get("bins")),
                gates=parse_gates(content.get("gates")),
            )
        except ValueError as error:
            raise _unreadable(path, str(error)) from error


def calibrate(samples: Sequence[FloorSample], *, recipe: Recipe, lineage: Lineage, level: float = 1e-3) -> Floor:
    """A floor from clean runs of a recipe's emulation.

    samples: one a clean run, at least 4; their names must differ. level: share of clean runs that may exceed the gate.
    A mode (chained, isolated) needs at least 4 runs of its own, or it has no gate.
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
    for mode in sorted({key.mode for sample in samples for key in sample.worst}):
        having = [sample for sample in samples if any(key.mode == mode for key in sample.worst)]
        keys = sorted({key for sample in having for key in sample.worst if key.mode == mode}, key=str)
        worst = np.array([[sample.worst.get(key, np.nan) for key in keys] for sample in having])
        of_mode, gate = set_gate(worst, keys, level)
        scales |= dict(zip(keys, of_mode, strict=True))
        if gate is not None:
            gates[mode] = gate
    return Floor(recipe, lineage, names, scales, gates)


def _unreadable(path: Path, found: str) -> UsageError:
    return UsageError(
        place=f"floor file {path}",
        expected=f"a JSON file of format {FORMAT}, version {VERSION}",
        found=found,
        next_step="Calibrate the floor again with this version of the lab.",
    )
