"""How is an engine examined that may crash, or may not share this process? In a process of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from parity.floor import Floor
from parity.invariance.checks import Examination, OnStep, run_checks
from parity.invariance.subject import BRIEF, LONG
from parity.process_runner import ProcessRunner
from parity.runner import Request, Runner

VOCABULARY = ("vocab", "vocab_size")
"""What runners call the number of ids in their hyper-parameters."""


def random_request(runner: Runner, tokens: int = LONG) -> Request:
    """A prompt of seeded random ids: no check needs text, and random ids load experts unevenly too.

    Raises UsageError, from the request, where the runner does not say how many ids there are.
    """
    hyper = runner.describe().hyper
    vocab = next((int(hyper[name]) for name in VOCABULARY if hyper.get(name)), 0)
    longest = int(hyper.get("max_positions") or tokens)
    draw = random.Random(0)
    return Request("random ids", tuple(draw.randrange(vocab) for _ in range(min(tokens, longest))) if vocab else ())


def examine(
    runner: Runner,
    request: Request | None,
    checks: Sequence[str],
    brief: int,
    floor: Floor | None,
    tokens: int,
) -> Examination:
    """`run_checks`, on random ids where there is no request; for a process that has its runner already."""
    hear: OnStep | None = getattr(runner, "on_step", None)
    if hear is not None:
        # Checks are what is counted here; the layers of each forward pass would count over them.
        vars(runner)["on_step"] = None
    request = random_request(runner, tokens) if request is None else request
    return run_checks(runner, request, checks=checks, brief=brief, floor=floor, on_step=hear)


def examine_apart(
    spec: str,
    request: Request | None,
    *,
    checks: Sequence[str] = (),
    brief: int = BRIEF,
    floor: Floor | None = None,
    tokens: int = LONG,
    on_step: OnStep | None = None,
    threads: int = 1,
    **options: Any,
) -> Examination:
    """Examine runner `spec` (`NAME:MODEL`) in a child process; see `run_checks`.

    options: as the runner takes them. Raises RunnerError when the child dies, which is a finding of its own.
    """
    with ProcessRunner(spec, threads=threads, on_step=on_step, **options) as child:
        return child.call(examine, request, tuple(checks), brief, floor, tokens)
