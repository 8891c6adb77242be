"""What are the slices of one compared pair, in numbers? Nothing is judged here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from parity.compare.labels import RowLabels
from parity.floor import FLIPPED, DerivedFloor, FloorSample, NoiseFloor
from parity.metrics import (
    Columns,
    Moments,
    SliceTable,
    all_metrics,
    column_edges,
    norm_ratio,
    pair_moments,
    slice_tables,
)
from parity.records import site_name


@dataclass(frozen=True)
class Measured:
    """One stage of one phase: moments by (row, column cell), and what the rows are.

    axes: canonical, `T` or `T S` first. excluded_share: rows without a counterpart, of all phases of the site together:
    one flip among two decoded tokens says nothing about the share.
    """

    stage: str
    layer: int | None
    phase: str
    axes: tuple[str, ...]
    cells: Moments
    columns: Columns
    labels: RowLabels
    excluded_share: float = 0.0

    @property
    def name(self) -> str:
        return site_name(self.layer, self.stage)

    @cached_property
    def compared(self) -> Moments:
        """Cells of the rows that have a counterpart."""
        return self.cells[~self.labels.excluded]

    @cached_property
    def tables(self) -> list[tuple[str, SliceTable]]:
        """(kind, slices) of every kind. Rows set aside are in no slice but their own."""
        labels = self.labels
        experts = labels.expert if (labels.expert >= 0).any() else None
        keep = ~labels.aside & ~labels.excluded
        tables = [(t.kind, t) for t in slice_tables(self.cells, self.columns, experts=experts, keep=keep)]
        apart = np.flatnonzero(labels.aside & ~labels.excluded)
        if len(apart):
            rows = SliceTable(FLIPPED, apart, np.ones(len(apart), np.int64), self.cells[apart].total(axis=1))
            tables.append((FLIPPED, rows))
        return tables

    def whole(self) -> dict[str, float]:
        """Metrics of all compared rows together, and mean and standard deviation of the rows' norm ratios."""
        total = self.compared.total(axis=0).total(axis=0)
        metrics = {name: float(value) for name, value in all_metrics(total).items()}
        ratios = norm_ratio(self.compared.total(axis=1))
        ratios = ratios[np.isfinite(ratios)]
        metrics["norm_ratio_mean"] = float(ratios.mean()) if len(ratios) else float("nan")
        metrics["norm_ratio_sd"] = float(ratios.std()) if len(ratios) else float("nan")
        metrics["rows_aside"] = float((self.labels.aside & ~self.labels.excluded).sum())
        return metrics

    def sample(self, into: FloorSample, *, mode: str) -> None:
        """Take this pair of a clean run into a floor's sample."""
        into.add(
            mode=mode,
            stage=self.stage,
            layer=self.layer,
            phase=self.phase,
            tables=self.tables,
            position=self.labels.position,
        )

    def words(self, table: SliceTable, at: int) -> str:
        """A slice in words: `head 3`, `columns 128..256`, `position 412, expert 3, its row 128`."""
        index = int(table.index[at])
        if table.kind in ("row", FLIPPED):
            note = " (routed otherwise by a near-tie)" if table.kind == FLIPPED else ""
            return self.labels.words(index) + note
        if table.kind == "columns":
            cells = np.flatnonzero(self.columns.block == index)
            return f"columns {self.columns.edges[cells[0]]}..{self.columns.edges[cells[-1] + 1]}"
        return {"head": f"head {index}", "expert": f"expert {index}, {table.rows[at]} rows"}.get(
            table.kind, "whole tensor"
        )


def measure(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor, RowLabels]],
    *,
    stage: str,
    layer: int | None,
    axes: tuple[str, ...],
    floor: NoiseFloor | None = None,
) -> list[Measured]:
    """Measure canonical tensors of one or more requests, phase by phase.

    parts: (oracle, sut, labels) of each request; tensors [T, ...] or, with `T S` leading axes, [T, S, ...].
    floor: the one that will judge; a derived one needs sums of its own.
    Returns one Measured a phase that occurs, prefill first.
    """
    leading = 2 if axes[:2] == ("T", "S") and len(axes) > 2 else 1
    shape = tuple(parts[0][0].shape[leading:])
    columns = column_edges(axes[leading:], shape)
    width = int(np.prod(shape, dtype=np.int64))
    collect = floor.moments if isinstance(floor, DerivedFloor) else pair_moments
    moments = [
        collect(oracle=a.reshape(len(labels), width), sut=b.reshape(len(labels), width), edges=columns.edges)
        for a, b, labels in parts
    ]
    cells, labels = Moments.join(moments), RowLabels.join([labels for _, _, labels in parts])
    phases = sorted(set(labels.phase.tolist()), key=("prefill", "decode").index)
    share = float(labels.excluded.mean()) if len(labels) else 0.0
    masks = [(phase, labels.phase == phase) for phase in phases or ["prefill"]]
    if len(masks) == 1:  # no copy of the moments
        return [Measured(stage, layer, masks[0][0], axes, cells, columns, labels, share)]
    return [Measured(stage, layer, phase, axes, cells[mask], columns, labels[mask], share) for phase, mask in masks]
