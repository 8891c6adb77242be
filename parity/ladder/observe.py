"""What does a runner do with this prompt? One capture of its stages and one greedy continuation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from parity.runner import CapturePlan, Generation, Request, Runner, RunnerInfo, Schedule
from parity.trace import Trace


@dataclass(frozen=True)
class Observation:
    """Everything an investigation needs of the SUT; no further run of it is needed.

    trace: every stage at every position of the prompt. generation: the greedy continuation.
    """

    info: RunnerInfo
    request: Request
    trace: Trace
    generation: Generation


def observe(
    runner: Runner, request: Request, *, max_new_tokens: int, out: Path | None = None, schedule: Schedule = Schedule()
) -> Observation:
    """Run the prompt once with every probe on, and continue it greedily.

    out: folder of the trace, None for memory. schedule: how the prompt is fed; the continuation follows it but for the
    decode steps inside the prompt.
    """
    trace = runner.forward([request], schedule=schedule, capture=CapturePlan(out=out))
    generation = runner.generate(request, max_new_tokens=max_new_tokens, schedule=replace(schedule, decode=0))
    return Observation(runner.describe(), request, trace, generation)
