"""Which verdict does a measured pair get? Nonfinite values first, then bits, then the floor."""

from __future__ import annotations

import numpy as np

from parity.compare.beside import beside_larger
from parity.compare.gathered import Gathered, over_floor
from parity.compare.measure import Measured
from parity.floor import FLIPPED, DerivedFloor, NoiseFloor
from parity.records import Comparison, Verdict

UNRESOLVED_SHARE = 0.05
"""Share of rows left out above which a clean result is not called clean."""

FEW_ROWS = 2
"""Rows routed otherwise that may go unjudged whatever their share: in a phase of few rows one flip is over 5 %."""


def judge(measured: Measured, *, floor: NoiseFloor | None, mode: str) -> Comparison:
    """The comparison record of a pair that was measured as a whole; see `judge_gathered`."""
    gathered = Gathered(floor, mode)
    gathered.take(measured)
    return judge_gathered(gathered)


def judge_gathered(gathered: Gathered) -> Comparison:
    """The comparison record of a site's phase, after the last of its blocks, one at least.

    Order: nothing to compare -> nonfinite on any side, in any row, excluded ones included -> equal bits -> floor.
    EXCEEDS_FLOOR when any slice is over its gate. Else NO_FLOOR when some row lies outside what was calibrated (larger
    slices that do are counted in `unjudged`: their rows are judged), NO_POWER when more than 5 % of rows could not
    be compared or judged, else WITHIN_FLOOR.
    """
    site, floor, known = gathered.last, gathered.floor, gathered.labels
    assert site is not None
    assert gathered.total is not None
    worst = gathered.finish()
    over = max((s.over_floor for s in worst if s.over_floor is not None), default=None)
    rows, excluded, total = known - gathered.excluded, gathered.excluded, gathered.total
    measured = known > 0 and gathered.width > 0
    whole = gathered.whole() if measured else {}

    def record(verdict: Verdict, reason: str = "", score: float | None = None) -> Comparison:
        return Comparison(
            name=site.name,
            layer=site.layer,
            stage=site.stage,
            phase=site.phase,
            verdict=verdict,
            whole=whole,
            worst=worst,
            over_floor=score,
            rows=rows,
            excluded_rows=excluded,
            reason=reason,
            unjudged=gathered.slices - gathered.judged if floor is not None else 0,
            mode=gathered.mode,
        )

    left_out = f"{excluded} of {known} rows have no counterpart"
    if not measured:
        return record(Verdict.NOT_COMPARED, f"empty: {known} rows of width {gathered.width}")
    if gathered.by_side:
        return record(Verdict.NONFINITE, _nonfinite_reason(gathered))
    if not rows:
        return record(Verdict.NOT_COMPARED, left_out)
    share = site.excluded_share if gathered.excluded_share is None else gathered.excluded_share
    unresolved = share > UNRESOLVED_SHARE
    if not total.differ:
        score = None if floor is None else 0.0
        return record(Verdict.NO_POWER, left_out, score) if unresolved else record(Verdict.MATCH, "", score)
    if floor is None:
        return record(Verdict.NO_FLOOR, "measured only: no floor was given")
    if over is not None and over > 1:
        first = worst[0]
        return record(Verdict.EXCEEDS_FLOOR, f"{first.by} of {first.where} is {over:.3g} times its gate", over)
    if over is None or gathered.unjudged.get("row"):
        outside = ", ".join(f"{count} {kind} slices" for kind, count in gathered.unjudged.items() if count)
        return record(Verdict.NO_FLOOR, f"outside what the floor was calibrated for: {outside or 'everything'}", over)
    no_floor = gathered.unjudged.get(FLIPPED, 0)
    if unresolved or no_floor > max(UNRESOLVED_SHARE * known, FEW_ROWS):
        without = f"{left_out}, {no_floor} routed otherwise have no floor: over 5 % unresolved"
        return record(Verdict.NO_POWER, without, over)
    if total.dd > 0 and whole.get("scale_seen", 0.0) >= 1:
        return record(Verdict.NO_POWER, "the bound of these values would let a tensor of zeros pass", over)
    if gathered.lost:
        reason = f"{gathered.lost} rows differ and are so small that the bound would let zeros pass"
        return record(Verdict.NO_POWER, reason, over)
    if gathered.own[0] > 1 and isinstance(floor, DerivedFloor) and floor.by_own_size:
        return record(Verdict.NO_POWER, beside_larger(*gathered.own, gathered.own_columns(), gathered.own_rows), over)
    return record(Verdict.WITHIN_FLOOR, "", over)


def over_floor_by_kind(measured: Measured, floor: NoiseFloor, mode: str) -> dict[str, tuple[list[str], np.ndarray]]:
    """By kind: the metric that is worst over its gate for each slice, and by how much; NaN without a floor."""
    return {kind: over_floor(measured, table, floor, mode) for kind, table in measured.tables}


def _nonfinite_reason(gathered: Gathered) -> str:
    return "; ".join(
        f"{count} NaN or infinite elements in {rows} rows of the {side}, first at {first}"
        for side, (count, rows, first) in gathered.by_side.items()
    )
