"""Which verdict does a measured pair get? Nonfinite values first, then bits, then the floor."""

from __future__ import annotations

import numpy as np

from parity.compare.measure import Measured
from parity.floor import FLIPPED, DerivedFloor, NoiseFloor
from parity.floor.derived import ASKED
from parity.metrics import SliceTable, all_metrics, slice_metrics
from parity.records import Comparison, SliceResult, Verdict

UNRESOLVED_SHARE = 0.05
"""Share of rows left out above which a clean result is not called clean."""

FEW_ROWS = 2
"""Rows routed otherwise that may go unjudged whatever their share: in a phase of few rows one flip is over 5 %."""


def judge(measured: Measured, *, floor: NoiseFloor | None, mode: str) -> Comparison:
    """The comparison record of a pair.

    Order: nothing to compare -> nonfinite on any side, in any row, excluded ones included -> equal bits -> floor.
    EXCEEDS_FLOOR when any slice is over its gate. Else NO_FLOOR when some row lies outside what was calibrated (larger
    slices that do are counted in `unjudged`: their rows are judged), NO_POWER when more than 5 % of rows could not
    be compared or judged, else WITHIN_FLOOR.
    """
    labels = measured.labels
    excluded = int(labels.excluded.sum())
    rows = len(labels) - excluded
    overs = {} if floor is None else over_floor_by_kind(measured, floor, mode)
    worst = _worst_slices(measured, overs)
    over = max((s.over_floor for s in worst if s.over_floor is not None), default=None)
    known = sum(len(table) for _, table in measured.tables)
    judged = sum(int((~np.isnan(over_of)).sum()) for _, over_of in overs.values())
    whole = measured.whole() if measured.rows.count.sum() else {}
    if isinstance(floor, DerivedFloor):
        whole |= _power(measured, floor)
    unjudged = {kind: int(np.isnan(over_of).sum()) for kind, (_, over_of) in overs.items()}

    def record(verdict: Verdict, reason: str = "", score: float | None = None) -> Comparison:
        return Comparison(
            name=measured.name,
            layer=measured.layer,
            stage=measured.stage,
            phase=measured.phase,
            verdict=verdict,
            whole=whole,
            worst=worst,
            over_floor=score,
            rows=rows,
            excluded_rows=excluded,
            reason=reason,
            unjudged=known - judged if floor is not None else 0,
            mode=mode,
        )

    left_out = f"{excluded} of {len(labels)} rows have no counterpart"
    if not measured.rows.count.sum():
        return record(Verdict.NOT_COMPARED, f"empty: {len(labels)} rows of width {measured.columns.edges[-1]}")
    if measured.rows.nonfinite_oracle.any() or measured.rows.nonfinite_sut.any():
        return record(Verdict.NONFINITE, _nonfinite_reason(measured))
    if not rows:
        return record(Verdict.NOT_COMPARED, left_out)
    unresolved = measured.excluded_share > UNRESOLVED_SHARE
    if not measured.compared.differ.any():
        score = None if floor is None else 0.0
        return record(Verdict.NO_POWER, left_out, score) if unresolved else record(Verdict.MATCH, "", score)
    if floor is None:
        return record(Verdict.NO_FLOOR, "measured only: no floor was given")
    if over is not None and over > 1:
        first = worst[0]
        return record(Verdict.EXCEEDS_FLOOR, f"{first.by} of {first.where} is {over:.3g} times its gate", over)
    if over is None or unjudged.get("row"):
        outside = ", ".join(f"{count} {kind} slices" for kind, count in unjudged.items() if count)
        return record(Verdict.NO_FLOOR, f"outside what the floor was calibrated for: {outside or 'everything'}", over)
    no_floor = unjudged.get(FLIPPED, 0)
    if unresolved or no_floor > max(UNRESOLVED_SHARE * len(labels), FEW_ROWS):
        without = f"{left_out}, {no_floor} routed otherwise have no floor: over 5 % unresolved"
        return record(Verdict.NO_POWER, without, over)
    if measured.compared.dd.any() and whole.get("scale_seen", 0.0) >= 1:
        return record(Verdict.NO_POWER, "the bound of these values would let a tensor of zeros pass", over)
    return record(Verdict.WITHIN_FLOOR, "", over)


def over_floor_by_kind(measured: Measured, floor: NoiseFloor, mode: str) -> dict[str, tuple[list[str], np.ndarray]]:
    """By kind: the metric that is worst over its gate for each slice, and by how much; NaN without a floor."""
    result = {}
    for kind, table in measured.tables:
        by_metric = floor.judge(
            mode=mode,
            stage=measured.stage,
            layer=measured.layer,
            phase=measured.phase,
            kind=kind,
            table=table,
            position=measured.labels.position,
        )
        by_metric.pop("max_abs", None)
        names = list(by_metric)
        stacked = np.stack([by_metric[name] for name in names])
        # rel_l2 must have a floor; a slice is not judged when it has none, whatever the other metrics say.
        worst = np.where(np.isnan(stacked), -np.inf, stacked).max(0)
        over = np.where(np.isnan(stacked[0]) & ~(worst > 1), np.nan, worst)
        result[kind] = ([names[i] for i in np.where(np.isnan(stacked), -np.inf, stacked).argmax(0)], over)
    return result


def _worst_slices(measured: Measured, overs: dict[str, tuple[list[str], np.ndarray]]) -> tuple[SliceResult, ...]:
    """The worst slice of each kind, worst first: by score over the floor, without one by rel_l2 and nonfinite count."""
    found = []
    for kind, table in measured.tables:
        if not len(table) or not table.moments.count.any():
            continue
        at = _worst_index(table, overs[kind][1] if kind in overs else None)
        metrics = slice_metrics(table, at)
        over = None if kind not in overs or np.isnan(overs[kind][1][at]) else float(overs[kind][1][at])
        by = None if over is None else overs[kind][0][at]
        where = measured.words(table, at)
        found.append(SliceResult(kind, int(table.index[at]), where, metrics, over, by))

    def badness(result: SliceResult) -> tuple[float, float, float]:
        error = result.metrics["rel_l2"]
        over = -1.0 if result.over_floor is None else result.over_floor
        return result.metrics["nonfinite"], over, -1.0 if np.isnan(error) else error

    return tuple(sorted(found, key=badness, reverse=True))


def _power(measured: Measured, floor: DerivedFloor) -> dict[str, float]:
    """What a derived bound can see here: the smallest scale error of the whole tensor, and rows that hide 1 %."""
    tables = dict(measured.tables)
    seen, rows = floor.scale_seen("tensor", tables["tensor"]), tables["row"]
    blind = (rows.moments.yy > 0) & (floor.scale_seen("row", rows) > ASKED)
    return {"scale_seen": float(seen[0]), "rows_blind": float(blind.sum())}


def _worst_index(table: SliceTable, over: np.ndarray | None) -> int:
    metrics = all_metrics(table.moments)
    error = np.where(np.isnan(metrics["rel_l2"]), -1.0, metrics["rel_l2"])
    score = np.full(len(table), -1.0) if over is None else np.where(np.isnan(over), -1.0, over)
    return int(np.lexsort((error, score, metrics["nonfinite"]))[-1])


def _nonfinite_reason(measured: Measured) -> str:
    parts = []
    for side in ("oracle", "sut"):
        by_row = getattr(measured.rows, f"nonfinite_{side}")
        bad = np.flatnonzero(by_row)
        if len(bad):
            where = measured.labels.words(int(bad[0]))
            count = f"{int(by_row.sum())} NaN or infinite elements"
            parts.append(f"{count} in {len(bad)} rows of the {side}, first at {where}")
    return "; ".join(parts)
