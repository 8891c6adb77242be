"""Was this run before? A runner that keeps what it put out on disk, and reads it back instead of running again.

    CACHE/captures/DIGEST/       a trace in the open format, docs/trace-format.md
    CACHE/generations/DIGEST.json

A digest is of everything that the content follows from: the engine's identity, the requests, the schedule, the plan,
the grafts. A run that keeps no tensor is not remembered. A folder gets its name when it is whole; of two sessions that
run the same at once, the first is kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.climb.store import read_json, write_json
from parity.errors import TraceError, UsageError
from parity.lab.identity import digest
from parity.reading import read_record
from parity.runner import CapturePlan, ComputedGraft, Generation, Graft, Request, RunnerInfo, Schedule, options_of
from parity.sampling import Sampling
from parity.trace import Trace, open_trace, save_trace
from parity.trace.journal import MANIFEST


class Remembered:
    """A runner with a memory; abilities beyond the protocol are the runner's own, and are not remembered.

    runner: opened when something is asked for that is not on disk. identity: see parity.lab.identity. hear: told of
    everything that is read back instead of run.
    """

    def __init__(
        self, runner: Any, identity: Mapping[str, Any], cache: Path, *, hear: Callable[[str], None] | None = None
    ) -> None:
        self.runner = runner
        self.identity = dict(identity)
        self.cache = cache
        self._hear = hear or (lambda _: None)
        self._info: RunnerInfo | None = None

    def describe(self) -> RunnerInfo:
        if self._info is None:
            self._info = self.runner.describe()
        assert self._info is not None
        return self._info

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
        variant: Mapping[str, str] | None = None,
    ) -> Trace:
        """The trace of this run, read lazily from the cache; `capture.out` is not looked at."""
        under = options_of(graft=graft, variant=variant)
        if capture is None or capture.mode != "tensor":  # there is no trace to keep
            return self.runner.forward(requests, schedule=schedule, capture=capture, **under)
        plan = replace(capture, out=None)
        asked = ["forward", self.identity, list(requests), schedule, plan, list(graft), dict(variant or {})]
        folder = self.cache / "captures" / digest(asked)
        kept = _whole(folder)
        if kept is not None:
            self._hear(f"{self.describe().name}: captures read back from {folder}")
            return kept
        half = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        trace = self.runner.forward(requests, schedule=schedule, capture=replace(plan, out=half), **under)
        if not (half / MANIFEST).exists():  # a runner that keeps its traces in memory
            save_trace(half, trace)
        _settle(half, folder)
        return open_trace(folder)

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        """The continuation, from the cache where it was made before."""
        asked = ["generate", self.identity, request, max_new_tokens, schedule, list(graft), sampling]
        path = self.cache / "generations" / f"{digest(asked)}.json"
        if path.is_file():
            self._hear(f"{self.describe().name}: continuation read back from {path}")
            return read_record(Generation, read_json(path), place=str(path))
        under = options_of(graft=graft, sampling=sampling)
        made = self.runner.generate(request, max_new_tokens=max_new_tokens, schedule=schedule, **under)
        write_json(path, made)
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.runner, name)


def _whole(folder: Path) -> Trace | None:
    """The trace in a folder; None where there is none, or one that is damaged: that is run again."""
    if not folder.is_dir():
        return None
    try:
        trace = open_trace(folder)
    except (TraceError, UsageError):
        trace = None
    if trace is None or not trace.complete:
        shutil.rmtree(folder)
        return None
    return trace


def _settle(half: Path, folder: Path) -> None:
    try:
        half.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(half)  # another session was first
