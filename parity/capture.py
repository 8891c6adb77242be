"""One run of a runner, kept on disk: opens it, checks that the folder is free, runs the prompt, counts what came."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.errors import TraceError, UsageError
from parity.estimate import folder_bytes
from parity.probes import check_plan
from parity.probes.statistics import STATS
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.trace import open_trace
from parity.trace.failure import make_folder
from parity.trace.journal import MANIFEST


@dataclass(frozen=True)
class CaptureDone:
    """What a capture left. sites: places (layer and stage) with at least one capture; bytes: of all its files."""

    out: Path
    runner: str
    recipe: str
    mode: str
    tokens: int
    sites: int
    captures: int
    bytes: int
    seconds: float


def capture_run(
    spec: str, request: Request, *, plan: CapturePlan, schedule: Schedule = Schedule(), **options: Any
) -> CaptureDone:
    """Open runner `spec` (`NAME:MODEL`), run `request` under `plan` and keep the captures in `plan.out`.

    Raises UsageError for a plan without a folder, TraceError for a folder that holds a capture already, both before the
    runner is opened, and what the runner raises.
    """
    if plan.out is None:
        raise UsageError(
            place="capture plan", expected="a folder in `out`", found="none", next_step="Name where to keep the trace."
        )
    check_plan(plan)
    out = Path(plan.out)
    for name in (MANIFEST, STATS):
        if (out / name).exists():
            raise TraceError(
                place=str(out),
                expected="a folder without a capture",
                found=f"a {name} in it",
                next_step="Choose another folder, or remove the old capture first.",
            )
    make_folder(out)
    runner = open_runner(spec, **options)
    start = time.monotonic()
    runner.forward([request], schedule=schedule, capture=plan)
    if plan.mode == "stats":
        found = json.loads((out / STATS).read_text())["statistics"]
        places = [(record["layer"], record["stage"]) for record in found]
    else:
        places = [(capture.layer, capture.stage) for capture in open_trace(out).captures]
    info = runner.describe()
    return CaptureDone(
        out=out,
        runner=info.name,
        recipe=info.recipe.name,
        mode=plan.mode,
        tokens=len(request.ids),
        sites=len(set(places)),
        captures=len(places),
        bytes=folder_bytes(out),
        seconds=time.monotonic() - start,
    )
