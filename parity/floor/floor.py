"""What error does a correct implementation of this recipe show, and how far over it is a slice?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.errors import UsageError
from parity.floor.bins import Bin, bin_layer, bin_ranges, deviations
from parity.floor.gate import RULE, Gate, Scale, substitute_sizes
from parity.floor.stored import (
    parse_environment,
    parse_gates,
    parse_heldout,
    parse_lineage,
    parse_power,
    parse_recipe,
    parse_rule,
    parse_scales,
    parse_texts,
)
from parity.metrics import SliceTable
from parity.records import Environment, HeldOut, Lineage, Power, Recipe, Run
from parity.runner import RunnerInfo

FORMAT, VERSION = "parity-floor", 2
SOURCES = ("emulation", "input perturbation")
LAST_RANGE = 16  # positions up to 4^15


@dataclass(frozen=True)
class Floor:
    """A noise floor: scales by bin, a gate for each mode, and what they were calibrated on.

    scales: what each bin's worst deviation is in clean runs. runs: names of the clean runs, documents: of what their
    prompts were cut from. source: `emulation`, the recipe's against exact arithmetic; or `input perturbation`, where
    exact arithmetic cannot run: the spread that one rounding of the inputs makes, a stand-in for both.
    heldout: false alarms on other clean runs. power: what the gates see. environment: what calibrated it.
    rule: number of the rule that made gates of the runs (`parity.floor.gate.RULE` is the one that stands).
    """

    recipe: Recipe
    lineage: Lineage
    runs: tuple[str, ...]
    scales: Mapping[Bin, Scale]
    gates: Mapping[str, Gate]
    documents: tuple[str, ...] = ()
    source: str = SOURCES[0]
    environment: Environment | None = None
    heldout: HeldOut | None = None
    power: tuple[Power, ...] = ()
    rule: int = RULE

    def refuse_other(self, run: Run | RunnerInfo) -> None:
        """Raise UsageError when this is not a floor for the recipe and weights of a run, or of a runner."""
        ours, theirs = (self.recipe.name, self.lineage.root), (run.recipe.name, run.lineage.root)
        if ours != theirs:
            raise UsageError(
                place="noise floor",
                expected=f"one of recipe {theirs[0]} and lineage {theirs[1]}, as the SUT has them",
                found=f"recipe {ours[0]}, lineage {ours[1]}",
                next_step="Calibrate a floor for this recipe and checkpoint, or compare without one.",
            )

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
            if scale is not None:
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
        binned = {
            (at, size): (positions == at) & (sizes == size)
            for at, size in set(zip(positions.tolist(), sizes.tolist(), strict=True))
        }
        result = {}
        for metric, values in deviations(kind, stage, table.moments, mode).items():
            gates = np.full(len(table), np.nan)
            for (at, size), inside in binned.items():
                gate = self.gate(Bin(mode, stage, bin_layer(kind, layer), kind, metric, phase, at, size))
                gates[inside] = np.nan if gate is None else gate
            with np.errstate(divide="ignore", invalid="ignore"):
                over = values / gates
            # Equality is no error under any gate, of 0 too; but where there is no gate nothing is said.
            result[metric] = np.where((values == 0) & ~np.isnan(gates), 0.0, over)
        return result

    def sentence(self) -> str:
        """What it was made from and how often it calls a clean run wrong, in words."""
        made = f"{len(self.runs)} clean runs of {len(self.documents)} documents"
        what = f"Floor of {self.recipe.name} for {self.lineage.root[:12]}, from {self.source}"
        text = f"{what}: {made}, {len(self.scales)} bins."
        if self.rule != RULE:
            text += f" Its gates were made by rule {self.rule} of this lab; rule {RULE} stands: calibrate it again."
        if self.heldout is None:
            return f"{text} False alarms were not counted."
        held = self.heldout
        alarms = "1 false alarm" if held.alarms == 1 else f"{held.alarms} false alarms"
        return (
            f"{text} {alarms} in {held.runs} held-out runs of {held.documents} other documents: "
            f"a rate below {100 * held.upper_bound:.2g} % with {100 * held.confidence:.0f} % confidence; the worst "
            f"stood at {held.worst:.2f} of its gate ({held.worst_where})."
        )

    def as_dict(self) -> dict[str, Any]:
        """What `parity floor show --json` prints: everything but the bins, which the file holds."""
        return {
            "source": self.source,
            "rule": self.rule,
            "recipe": self.recipe,
            "lineage": self.lineage,
            "environment": self.environment,
            "runs": len(self.runs),
            "documents": len(self.documents),
            "bins": len(self.scales),
            "gates": dict(self.gates),
            "heldout": self.heldout,
            "power": self.power,
        }

    def save(self, path: Path) -> None:
        """Write as JSON: gates with their method, bins as [position, size, centre, spread, runs] grouped by
        [mode, stage, layer, kind, metric, phase], false alarms on held-out runs, power, environment."""
        ordered = sorted(self.scales.items(), key=lambda item: tuple(map(str, item[0][:6])) + item[0][6:])
        content = {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "rule": self.rule,
            "recipe": asdict(self.recipe),
            "lineage": asdict(self.lineage),
            "environment": None if self.environment is None else asdict(self.environment),
            "runs": list(self.runs),
            "documents": list(self.documents),
            "heldout": None if self.heldout is None else asdict(self.heldout),
            "gates": {mode: asdict(gate) for mode, gate in self.gates.items()},
            "power": [list(asdict(one).values()) for one in self.power],
            "bins": [
                [list(group), [[*key[6:], scale.centre, scale.spread, scale.runs] for key, scale in members]]
                for group, members in groupby(ordered, key=lambda item: item[0][:6])
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")

    @staticmethod
    def load(path: Path) -> Floor:
        """Read what `save` wrote. Raises UsageError for another format or version, or a field of another kind."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UsageError(
                place=f"floor file {path}",
                expected="a floor that was calibrated, or derived:DTYPE",
                found="no such file",
                next_step="Check the path; `parity floor calibrate` makes one.",
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise _unreadable(path, str(error)) from error
        if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
            found = {k: content.get(k) for k in ("format", "version")} if isinstance(content, dict) else type(content)
            raise _unreadable(path, str(found))
        try:
            return Floor(
                recipe=parse_recipe(content.get("recipe")),
                lineage=parse_lineage(content.get("lineage")),
                runs=parse_texts(content.get("runs"), "runs"),
                scales=parse_scales(content.get("bins")),
                gates=parse_gates(content.get("gates")),
                documents=parse_texts(content.get("documents"), "documents"),
                source=parse_texts([content.get("source")], "source")[0],
                environment=parse_environment(content.get("environment")),
                heldout=parse_heldout(content.get("heldout")),
                power=parse_power(content.get("power")),
                rule=parse_rule(content.get("rule", 0)),
            )
        except ValueError as error:
            raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, found: str) -> UsageError:
    return UsageError(
        place=f"floor file {path}",
        expected=f"a JSON file of format {FORMAT}, version {VERSION}",
        found=found,
        next_step="Calibrate the floor again with this version of the lab.",
    )
