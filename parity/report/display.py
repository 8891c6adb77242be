"""What does a notebook show of a record? A small table of its numbers, and the figure that fits it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from parity.records import Comparison, Finding, Summary, Verdict
from parity.report import session
from parity.report.session import page

MOST_ROWS = 40
NEAREST = 5
"""Cleared sites that the page of a healthy summary shows."""


def page_of_summary(summary: Summary) -> str:
    """Counts by verdict, and the sites that are not cleared; where all are, those nearest to their floor."""
    open_ends = [record for record in summary.comparisons if not record.verdict.healthy]
    head = ("site", "phase", "mode", "verdict", "worst slice over its floor", "which, or why")
    if not open_ends:
        # A table of nothing tells nothing: how near the nearest are.
        near = [record for record in summary.comparisons if record.over_floor is not None]
        open_ends = sorted(near, key=lambda record: -(record.over_floor or 0.0))[:NEAREST]
    rows = [_comparison_row(record) for record in open_ends[:MOST_ROWS]]
    left = f" {len(open_ends) - MOST_ROWS} more are not shown." if len(open_ends) > MOST_ROWS else ""
    said = ", ".join(f"{count} {verdict}" for verdict, count in summary.verdicts.items()) or "nothing was compared"
    return page(f"{len(summary.comparisons)} comparisons: {said}.{left}", head, rows)


def page_of_comparison(record: Comparison) -> str:
    """The verdict, the whole tensor's metrics and the worst slice of each kind."""
    metrics = [("whole tensor", "", name, value) for name, value in record.whole.items()]
    slices = [(one.where, one.over_floor, one.by, one.metrics.get(one.by or "rel_l2")) for one in record.worst]
    head = ("slice", "over its floor", "metric", "value")
    return page(f"{record.name}, {record.phase}, {record.mode}: {record.verdict.value}", head, [*slices, *metrics])


def page_of_finding(finding: Finding) -> str:
    """Where, why, how sure."""
    from parity.report.evidence import tell_finding

    rows = list(tell_finding(finding))
    rows.append(("proof", "proved" if finding.proof.get("proved") else "not proved"))
    rows += [("not excluded", one) for one in finding.not_excluded]
    return page(finding.sentence, ("what", "which"), rows)


def page_of_ledger(ledger: Any) -> str:
    """Every hypothesis with where it stands, refuted ones included."""
    rows = []
    for hypothesis in ledger.hypotheses:
        tests = ledger.tests(hypothesis.id)
        numbers = "; ".join(f"{name} {value}" for name, value in list(tests[-1].numbers.items())[:4]) if tests else ""
        standing = ledger.standing(hypothesis.id).value
        rows.append((hypothesis.id, hypothesis.claim, standing, hypothesis.prediction, numbers, hypothesis.raised_by))
    head = ("id", "claim", "stands", "prediction", "measured", "raised by")
    return page(f"{len(rows)} hypotheses, {len(ledger.tests())} tests", head, rows)


def page_of_trace(trace: Any) -> str:
    """The run, and what was captured of each stage."""
    stages: dict[str, list[Any]] = {}
    for capture in trace.captures:
        stages.setdefault(capture.stage, []).append(capture)
    rows = []
    for stage, captures in stages.items():
        layers = {capture.layer for capture in captures}
        where = "model" if layers == {None} else f"{len(layers)} layers"
        first = captures[0]
        shape = " ".join(f"{axis} {size}" for axis, size in zip(first.axes, first.shape, strict=False))
        rows.append((stage, where, len(captures), first.dtype, shape))
    return page(repr(trace), ("stage", "where", "captures", "dtype", "shape of the first"), rows)


def page_of_investigation(found: Any) -> str:
    """The finding, then what was done."""
    steps = [(one.number, one.name, one.status.value, one.sentence) for one in found.results]
    table = page(f"{len(found.results)} rungs", ("", "rung", "status", "result"), steps)
    return page_of_finding(found.finding) + table


def picture_of_summary(summary: Summary) -> Any:
    """The map of layers by stages."""
    from parity.report.plots.layer_stage_map import draw_layer_stage_map

    modes = {record.mode for record in summary.comparisons}
    return draw_layer_stage_map([(" and ".join(sorted(modes)).capitalize() or "Nothing", summary)])


def picture_of_field(field: Any) -> Any:
    """The error field by row and column."""
    from parity.report.plots.error_field import draw_error_field

    return draw_error_field(field)


def picture_of_investigation(found: Any) -> Any:
    """The figure that shows the finding: the first of its report's."""
    from parity.report.gallery import draw_gallery

    exhibits = draw_gallery(found)
    return exhibits[0].picture if exhibits else None


PAGES: dict[str, Callable[[Any], str]] = {
    "Summary": page_of_summary,
    "Comparison": page_of_comparison,
    "Finding": page_of_finding,
    "Ledger": page_of_ledger,
    "MemoryTrace": page_of_trace,
    "DiskTrace": page_of_trace,
    "Investigation": page_of_investigation,
    **session.PAGES,
}
_PICTURES: dict[str, Callable[[Any], Any]] = {
    "Summary": picture_of_summary,
    "ReducedField": picture_of_field,
    "Investigation": picture_of_investigation,
    **session.PICTURES,
}
PICTURES = _PICTURES if find_spec("matplotlib") is not None else {}
"""By name of the class; empty without matplotlib."""


def _comparison_row(record: Comparison) -> tuple[Any, ...]:
    worst = record.worst and record.verdict in (Verdict.EXCEEDS_FLOOR, Verdict.WITHIN_FLOOR)
    which = record.worst[0].where if worst else record.reason
    return record.name, record.phase, record.mode, record.verdict.value, record.over_floor, which
