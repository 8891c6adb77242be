"""How wrong was one clean run at its worst, bin by bin?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parity.errors import UsageError, ValueRangeError
from parity.floor.bins import Bin, bin_layer, bin_ranges, deviations
from parity.metrics import SliceTable
from parity.records import site_name


@dataclass
class FloorSample:
    """The worst deviation of one clean run in every bin it has slices for.

    run: its name (prompt, schedule, order). document: what its prompt was cut from; the run's name by default.
    order: number of the order of arithmetic that it was computed in.
    """

    run: str
    worst: dict[Bin, float] = field(default_factory=dict)
    document: str = ""
    order: int = 0

    def __post_init__(self) -> None:
        self.document = self.document or self.run

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
            for metric, values in deviations(kind, stage, table.moments, mode).items():
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


def keep_for(path: Path, label: str) -> None:
    """Begin a file of samples with what they are of, or hold an old one to it.

    Raises UsageError when the file was begun for something else: samples of another recipe have the same names.
    """
    if not path.is_file() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"samples_of": label}) + "\n")
        return
    with path.open() as file:
        first = file.readline()
    try:
        found = json.loads(first).get("samples_of", "")
    except (ValueError, AttributeError):
        found = first[:80]
    if found != label:
        raise UsageError(
            place=f"file of samples {path}",
            expected=f"samples of {label}",
            found=repr(found),
            next_step="Name another file with --samples, or delete this one.",
        )


def append_sample(sample: FloorSample, path: Path) -> None:
    """Add a sample to a file of samples, one JSON line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "run": sample.run,
        "document": sample.document,
        "order": sample.order,
        "worst": [[*key, value] for key, value in sample.worst.items()],
    }
    with path.open("a") as file:
        file.write(json.dumps(content, separators=(",", ":")) + "\n")


def read_samples(path: Path) -> list[FloorSample]:
    """The samples of such a file; none when there is no file. A last line cut short by a killed process is left out."""
    if not path.is_file():
        return []
    samples = []
    for line in path.read_text().splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if "worst" not in content:  # the line that says what they are samples of
            continue
        worst = {Bin._make(fields): value for *fields, value in content["worst"]}
        samples.append(FloorSample(content["run"], worst, content["document"], content.get("order", 0)))
    return samples
