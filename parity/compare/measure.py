"""What are the slices of one compared pair, in numbers? Nothing is judged here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from parity.compare.labels import RowLabels
from parity.floor import FLIPPED, DerivedFloor, FloorSample, NoiseFloor
from parity.metrics import (
    Columns,
    Moments,
    RowRepeats,
    SliceTable,
    all_metrics,
    column_edges,
    fold_moments,
    norm_ratio,
    size_cuts,
    sized_rows,
    tables_of,
)
from parity.records import site_name

PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Measured:
    """One stage of one phase: moments by row and by column cell, and what the rows are.

    rows: [N]. across: [C], of the rows neither set aside nor without a counterpart.
    axes: canonical, `T` or `T S` first. excluded_share: rows without a counterpart, of all phases of the site together:
    one flip among two decoded tokens says nothing about the share.
    """

    stage: str
    layer: int | None
    phase: str
    axes: tuple[str, ...]
    rows: Moments
    across: Moments
    columns: Columns
    labels: RowLabels
    excluded_share: float = 0.0

    @property
    def name(self) -> str:
        return site_name(self.layer, self.stage)

    @cached_property
    def compared(self) -> Moments:
        """Of each row that has a counterpart."""
        return self.rows[~self.labels.excluded] if self.labels.excluded.any() else self.rows

    @cached_property
    def tables(self) -> list[tuple[str, SliceTable]]:
        """(kind, slices) of every kind. Rows set aside are in no slice but their own."""
        labels = self.labels
        experts = labels.expert if (labels.expert >= 0).any() else None
        keep = ~labels.aside & ~labels.excluded
        kept = self.rows if keep.all() else self.rows[keep]
        slices = tables_of(
            rows=kept,
            across=self.across,
            columns=self.columns,
            index=np.flatnonzero(keep),
            experts=experts,
            context=labels.context if labels.context.any() else None,
        )
        tables = [(t.kind, t) for t in slices]
        apart = np.flatnonzero(labels.aside & ~labels.excluded)
        if len(apart):
            rows = SliceTable(FLIPPED, apart, np.ones(len(apart), np.int64), self.rows[apart])
            tables.append((FLIPPED, rows))
        return tables

    def whole(self) -> dict[str, float]:
        """Metrics of all compared rows together, and mean and standard deviation of the rows' norm ratios."""
        total = self.compared.total(axis=0)
        metrics = {name: float(value) for name, value in all_metrics(total).items()}
        ratios = norm_ratio(self.compared)
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

    def words(self, table: SliceTable, at: int, *, several: bool = False) -> str:
        """A slice in words: `head 3`, `columns 128..256`, `position 412, expert 3, its row 128`."""
        index = int(table.index[at])
        if table.kind in ("row", FLIPPED):
            note = " (routed otherwise by a near-tie)" if table.kind == FLIPPED else ""
            return self.labels.words(index, several=several) + note
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
    repeats: RowRepeats | None = None,
) -> list[Measured]:
    """Measure canonical tensors of one or more requests, phase by phase.

    parts: (oracle, sut, labels) of each request; tensors [T, ...] or, with `T S` leading axes, [T, S, ...].
    floor: the one that will judge; a derived one needs sums of its own. repeats: of the site's blocks before these.
    Returns one Measured a phase that occurs, prefill first.
    """
    leading = 2 if axes[:2] == ("T", "S") and len(axes) > 2 else 1
    shape = tuple(parts[0][0].shape[leading:])
    width = int(np.prod(shape, dtype=np.int64))
    # Blocks of one site must be cut alike, which the first of them cannot know.
    cuts = _cuts(parts[0][0], leading, width) if isinstance(floor, DerivedFloor) and repeats is None else ()
    columns = column_edges(axes[leading:], shape, cuts)
    fold = fold_moments
    if isinstance(floor, DerivedFloor):
        fold = floor.fold if repeats is None else partial(floor.fold, repeats=repeats)
    labels = RowLabels.join([labels for _, _, labels in parts])
    phases = sorted(set(labels.phase.tolist()), key=PHASES.index) or ["prefill"]
    by_row, across = [], {}
    for a, b, of in parts:
        group = np.where(of.aside | of.excluded, -1, sum(n * (of.phase == phase) for n, phase in enumerate(phases)))
        y, x = a.reshape(len(of), width), b.reshape(len(of), width)
        rows, cells = fold(oracle=y, sut=x, edges=columns.edges, group=group)
        by_row.append(rows)
        for n, phase in enumerate(phases):  # a phase without a row of its own adds zeros
            more = cells[n] if n < len(cells.count) else cells[0].none()
            across[phase] = across[phase].plus(more) if phase in across else more
    rows = by_row[0] if len(by_row) == 1 else Moments.join(by_row)
    share = float(labels.excluded.mean()) if len(labels) else 0.0
    if len(phases) == 1:  # no copy of the moments
        return [Measured(stage, layer, phases[0], axes, rows, across[phases[0]], columns, labels, share)]
    masks = [(phase, labels.phase == phase) for phase in phases]
    return [
        Measured(stage, layer, phase, axes, rows[mask], across[phase], columns, labels[mask], share)
        for phase, mask in masks
    ]


def _cuts(oracle: torch.Tensor, leading: int, width: int) -> tuple[int, ...]:
    """Where the size of the columns changes, from some rows of the oracle."""
    flat = oracle.flatten(0, leading - 1)
    at = sized_rows(len(flat))
    return size_cuts(torch.stack([flat[row].reshape(width) for row in at])) if at else ()
