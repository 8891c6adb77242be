"""What is known of a site after some blocks of its rows? Rows are judged as they pass, larger slices at the end.

Of rows only the worst and counts are kept, so that a site of any number of rows takes the memory of one block. Column
blocks, heads, experts and the whole tensor add up over the blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parity.compare.measure import Measured
from parity.floor import FLIPPED, DerivedFloor, NoiseFloor
from parity.floor.derived import ASKED
from parity.metrics import (
    Moments,
    RoundedMoments,
    SliceTable,
    all_metrics,
    independent_by_group,
    independent_rows,
    norm_ratio,
    slice_metrics,
    tables_of,
)
from parity.metrics.formulas import nonfinite, rel_l2
from parity.records import SliceResult

Array = NDArray[np.float64]
Badness = tuple[float, float, float]


@dataclass
class Spread:
    """Count, mean and sum of squared deviations of values that come in parts; Chan, Golub & LeVeque 1979."""

    count: int = 0
    mean: float = float("nan")
    squares: float = 0.0

    def take(self, values: Array) -> None:
        if not len(values):
            return
        mean = float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        total = self.count + len(values)
        if self.count:
            delta = mean - self.mean
            squares += self.squares + delta**2 * self.count * len(values) / total
            mean = self.mean + delta * len(values) / total
        self.count, self.mean, self.squares = total, mean, squares

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else float("nan")


@dataclass
class Gathered:
    """One phase of a site, block by block. rows: of all blocks together, where they are known to be several.

    contexts: of the kept rows, with their experts.
    several: rows are of several requests, whether or not those of a block are.
    last: the block taken last, for what all blocks share. by_side: NaN and infinite elements by side: (how many, in how
    many rows, the first row in words). found: the worst slice of each kind. unjudged: slices without a floor, by kind.
    excluded_share: of all phases and blocks, None for that of the one block.
    """

    floor: NoiseFloor | None
    mode: str
    rows: int | None = None
    several: bool = False
    last: Measured | None = None
    labels: int = 0
    excluded: int = 0
    aside: int = 0
    kept: int = 0
    blind: int = 0
    own: tuple[float, str] = (0.0, "")
    own_rows: int = 0
    lost: int = 0
    slices: int = 0
    judged: int = 0
    across: Moments | None = None
    total: Moments | None = None
    experts: dict[int, tuple[int, Moments]] = field(default_factory=dict)
    contexts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = field(default_factory=list)
    by_side: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    found: dict[str, SliceResult] = field(default_factory=dict)
    unjudged: dict[str, int] = field(default_factory=dict)
    ratios: Spread = field(default_factory=Spread)
    excluded_share: float | None = None

    def take(self, block: Measured) -> None:
        """Add one block of rows; blocks come in order of position."""
        labels = block.labels
        for side in ("oracle", "sut"):
            by_row = getattr(block.rows, f"nonfinite_{side}")
            bad = np.flatnonzero(by_row)
            if len(bad):
                count, rows, first = self.by_side.get(side, (0, 0, labels.words(int(bad[0]), several=self.several)))
                self.by_side[side] = (count + int(by_row.sum()), rows + len(bad), first)
        apart = labels.aside & ~labels.excluded
        for kind, table in block.tables:
            if kind in ("row", FLIPPED):
                self._judge(block, kind, table, offset=self.labels)
            elif kind == "expert":
                for at, number in enumerate(table.index.tolist()):
                    rows, moments = self.experts.get(number, (0, None))
                    more = table.moments[at : at + 1]
                    self.experts[number] = (rows + int(table.rows[at]), more if moments is None else moments.plus(more))
        ratios = norm_ratio(block.compared)
        self.ratios.take(ratios[np.isfinite(ratios)])
        self.across = block.across if self.across is None else self.across.plus(block.across)
        total = block.compared.total(axis=0)
        self.total = total if self.total is None else self.total.plus(total)
        self.labels += len(labels)
        self.excluded += int(labels.excluded.sum())
        self.aside += int(apart.sum())
        keep = ~labels.aside & ~labels.excluded
        self.kept += int(keep.sum())
        self.contexts.append((labels.context[keep], labels.expert[keep]))
        self.last = block

    def finish(self) -> tuple[SliceResult, ...]:
        """Judge the slices larger than a row; the worst slice of each kind, worst first."""
        assert self.last is not None
        assert self.across is not None
        for table in self._larger():
            self._judge(self.last, table.kind, table)
        return tuple(sorted(self.found.values(), key=badness, reverse=True))

    @property
    def width(self) -> int:
        assert self.last is not None
        return self.last.columns.edges[-1]

    def whole(self) -> dict[str, float]:
        """Metrics of all compared rows together, the spread of the rows' norm ratios, and what a bound can see."""
        assert self.total is not None
        metrics = {name: float(value) for name, value in all_metrics(self.total).items()}
        metrics["norm_ratio_mean"], metrics["norm_ratio_sd"] = self.ratios.mean, self.ratios.deviation
        metrics["rows_aside"] = float(self.aside)
        if isinstance(self.floor, DerivedFloor):
            table = next(t for t in self._larger() if t.kind == "tensor")
            metrics["scale_seen"] = float(self.floor.scale_seen("tensor", table)[0])
            metrics["rows_blind"] = float(self.blind)
            metrics["rows_beside"] = float(self.own_rows)
        return metrics

    def _larger(self) -> list[SliceTable]:
        """Heads, column blocks, experts, the tensor: of the rows neither set aside nor without a counterpart."""
        assert self.last is not None
        assert self.across is not None
        nothing = self.last.rows[:0]
        tables = tables_of(
            rows=nothing, across=self.across, columns=self.last.columns, index=np.zeros(0, np.int64), experts=None
        )
        context, expert = (np.concatenate(parts) for parts in zip(*self.contexts, strict=True))
        known = bool(context.any())
        alone = independent_rows(context)
        larger = [
            SliceTable(
                t.kind, t.index, np.full(len(t), self.kept), t.moments, np.full(len(t), alone) if known else None
            )
            for t in tables
            if t.kind != "row"
        ]
        if self.experts:
            names = sorted(self.experts)
            rows = np.array([self.experts[n][0] for n in names], np.int64)
            moments = Moments.join([self.experts[n][1] for n in names])
            index = np.array(names, np.int64)
            each = independent_by_group(context, expert, index) if known else None
            larger.insert(-1, SliceTable("expert", index, rows, moments, each))
        return larger

    def _take_own(self, block: Measured, table: SliceTable) -> None:
        """Keep the row with the cell that is furthest over what its own size explains."""
        if not isinstance(table.moments, RoundedMoments) or not len(table):
            return
        at = int(table.moments.own.argmax())
        if table.moments.own[at] > self.own[0]:
            self.own = float(table.moments.own[at]), block.words(table, at, several=self.several)
        self.own_rows += int((table.moments.own > 1).sum())

    def own_columns(self) -> str:
        """The columns of that cell."""
        assert self.last is not None
        assert isinstance(self.across, RoundedMoments)
        at, edges = int(self.across.own.argmax()), self.last.columns.edges
        return f"columns {edges[at]}..{edges[at + 1]}"

    def _judge(self, block: Measured, kind: str, table: SliceTable, offset: int = 0) -> None:
        """Take the worst slice of a table, and how many of it could not be judged."""
        self.slices += len(table)
        over = by = None
        if self.floor is not None:
            by, over = over_floor(block, table, self.floor, self.mode, self.rows if kind == "row" else None)
            self.judged += int((~np.isnan(over)).sum())
            self.unjudged[kind] = self.unjudged.get(kind, 0) + int(np.isnan(over).sum())
            if kind == "row" and isinstance(self.floor, DerivedFloor):
                seen = self.floor.scale_seen("row", table, self.rows)
                self.lost += int(((table.moments.dd > 0) & (seen >= 1)).sum())
                self.blind += int(((table.moments.yy > 0) & (seen > ASKED)).sum())
                self._take_own(block, table)
        if not len(table) or not table.moments.count.any():
            return
        at = _worst_index(table, over)
        score = None if over is None or np.isnan(over[at]) else float(over[at])
        name = by[at] if by is not None and score is not None else None
        where, number = block.words(table, at, several=self.several), int(table.index[at]) + offset
        result = SliceResult(kind, number, where, slice_metrics(table, at), score, name)
        if kind not in self.found or badness(result) > badness(self.found[kind]):
            self.found[kind] = result


def over_floor(
    block: Measured, table: SliceTable, floor: NoiseFloor, mode: str, slices: int | None = None
) -> tuple[list[str], Array]:
    """(the metric that is worst over its gate, by how much) of every slice; NaN without a floor.

    slices: how many of that kind the whole site has, where the table is a part; a derived bound is divided over them.
    """
    more = {"slices": slices} if isinstance(floor, DerivedFloor) and slices else {}
    by_metric = floor.judge(
        mode=mode,
        stage=block.stage,
        layer=block.layer,
        phase=block.phase,
        kind=table.kind,
        table=table,
        position=block.labels.position,
        **more,
    )
    by_metric.pop("max_abs", None)
    names = list(by_metric)
    stacked = np.stack([by_metric[name] for name in names])
    # rel_l2 must have a floor; a slice is not judged when it has none, whatever the other metrics say.
    filled = np.where(np.isnan(stacked), -np.inf, stacked)
    worst = filled.max(0)
    over = np.where(np.isnan(stacked[0]) & ~(worst > 1), np.nan, worst)
    return [names[i] for i in filled.argmax(0)], over


def badness(result: SliceResult) -> Badness:
    """Sort key: nonfinite elements, then the score over the floor, then rel_l2."""
    error = result.metrics["rel_l2"]
    over = -1.0 if result.over_floor is None else result.over_floor
    return result.metrics["nonfinite"], over, -1.0 if math.isnan(error) else error


def _worst_index(table: SliceTable, over: Array | None) -> int:
    error = rel_l2(table.moments)
    error = np.where(np.isnan(error), -1.0, error)
    score = np.full(len(table), -1.0) if over is None else np.where(np.isnan(over), -1.0, over)
    return int(np.lexsort((error, score, nonfinite(table.moments)))[-1])
