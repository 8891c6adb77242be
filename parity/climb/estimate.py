"""What will an investigation take in rungs, time and memory? Told from sizes, with nothing opened."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from parity.climb.case import Case
from parity.climb.rungs import RUNGS
from parity.errors import ParityError
from parity.estimate import estimate_capture
from parity.preview import preview_runner
from parity.runner import CapturePlan, Request, Schedule

ENGINE_BYTES = 700e6
"""Of an engine's process besides its weights: Python, torch and Triton, as a healthy run of the shipped one held."""


@dataclass(frozen=True)
class RungEstimate:
    """obstacle: why it would not run, as far as the arguments tell; the rest is then 0."""

    number: int
    name: str
    question: str
    forwards: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    obstacle: str = ""


@dataclass(frozen=True)
class CaseEstimate:
    """rungs in order; seconds and memory of all; model: what the numbers rest on."""

    rungs: tuple[RungEstimate, ...]
    seconds: float
    trace_bytes: float
    memory_bytes: float
    model: str


def estimate_case(case: Case, *, skip: Collection[int] = (), only: Collection[int] = ()) -> CaseEstimate:
    """Every rung with the engine's forward passes that it takes, and what they cost by the engine's own preview.

    The estimate is of an investigation that finds a fault: a healthy engine needs no proof and no fixture.
    Raises what `preview_runner` and `estimate_capture` raise.
    """
    trace_only = case.trace_folder is not None
    forward = step = trace = memory = 0.0
    model = "A trace on disk: the engine is not run."
    if not trace_only:
        preview = preview_runner(case.sut, **_known(case))
        one = estimate_capture(preview, case.request, schedule=case.schedule, plan=CapturePlan())
        tail = Request("step", case.request.ids[:2])
        last = estimate_capture(preview, tail, schedule=Schedule(decode=1), plan=CapturePlan())
        forward, step = one.seconds, last.seconds / 2
        trace, memory, model = float(one.trace_bytes), one.memory_bytes + ENGINE_BYTES, one.model
    rows = []
    for rung in RUNGS:
        why = "left out" if rung.number in skip or (only and rung.number not in only) else ""
        if trace_only and rung.number in (0, 1, 2, 7, 8) and not (rung.number == 0 and case.sut_ids):
            why = why or "needs an engine, and there is a trace alone"
        if why:
            rows.append(RungEstimate(rung.number, rung.name, rung.question, obstacle=why))
            continue
        cost = rung.cost(case)
        seconds = cost.forwards * forward + cost.steps * step + cost.lab_seconds
        held = trace if rung.number in (3, 4, 5) else 0.0
        rows.append(RungEstimate(rung.number, rung.name, rung.question, cost.forwards, cost.steps, seconds, held))
    total = sum(row.seconds for row in rows)
    return CaseEstimate(tuple(rows), total, trace, memory + 3 * trace, f"Time of a forward pass: {model}.")


def _known(case: Case) -> dict[str, object]:
    """Options that a preview takes; one that opens the engine otherwise changes no size."""
    try:
        preview_runner(case.sut, **dict(case.sut_options))
    except ParityError:
        return {}
    return dict(case.sut_options)
