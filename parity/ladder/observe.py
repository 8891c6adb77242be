"""What does a runner do with this prompt? One capture of its stages and one greedy continuation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parity.runner import CapturePlan, Generation, Request, Runner, RunnerInfo
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


def observe(runner: Runner, request: Request, *, max_new_tokens: int, out: Path | None = None) -> Observation:
    """Run the prompt once with every probe on, and continue it greedily. out: folder of the trace, None for memory."""
    trace = runner.forward([request], capture=CapturePlan(out=out))
    generation = runner.generate(request, max_new_tokens=max_new_tokens)
    return Observation(runner.describe(), request, trace, generation)
