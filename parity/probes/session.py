"""Which recorder is in force? The innermost `capture(...)`, else what the environment asks for, else none."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from contextvars import ContextVar, Token
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from parity.errors import ProbeError, UsageError
from parity.probes.disk_sink import LostSink
from parity.probes.off import OFF, _Off
from parity.probes.plan import VARIABLES, check_plan, plan_from_environment
from parity.probes.recorder import Recorder
from parity.probes.sinks import Sink, open_sink
from parity.probes.statistics import STATS
from parity.records import Run
from parity.runner import CapturePlan, ComputedGraft, Graft
from parity.trace import DiskTrace, FolderError, MemoryTrace, TakenError
from parity.trace.journal import MANIFEST

_INNERMOST: ContextVar[Session | None] = ContextVar("parity_probes_session", default=None)
_BEGAN = time.time()
"""When this process began to use probes: a trace that is younger was written beside it, by another one."""
_FROM_ENVIRONMENT: dict[tuple[str | None, ...], Session | None] = {}


class Session:
    """A wish to capture, made where the model is used and not where it runs: each run in it gets a recorder.

    The first run's trace goes to `plan.out` itself, later ones to `plan.out/run-0001` and so on.
    shared: the plan comes from the environment, which other processes of the same engine have too. The folder then
    goes to the first of them, and the others write into `plan.out/process-PID`; a trace that is older than this
    process is refused all the same. A folder that cannot be written is warned of, and the engine goes on.
    """

    def __init__(
        self, plan: CapturePlan, grafts: Sequence[Graft | ComputedGraft] = (), *, shared: bool = False
    ) -> None:
        check_plan(plan)
        self._shared = shared
        self._process = os.getpid()
        self._folder = plan.out
        self.plan = plan
        self.grafts = tuple(grafts)
        self.recorders: list[Recorder] = []
        self._token: Token[Session | None] | None = None

    def bind(self, run: Run) -> Recorder:
        """A recorder for one run of the engine."""
        if self._process != os.getpid():
            # A forked process starts over: the runs and the folder so far are its parent's.
            self._process, self._folder = os.getpid(), self.plan.out
            self.recorders.clear()
        plan = self.plan
        if self._folder is not None and self.recorders:
            plan = replace(plan, out=Path(self._folder) / f"run-{len(self.recorders):04d}")
        recorder = Recorder(plan, run, self.grafts, open_=self._open if self._shared else open_sink)
        self.recorders.append(recorder)
        return recorder

    def _open(self, plan: CapturePlan | None, run: Run) -> Sink:
        """The sink of one run, beside the traces of other processes that share the folder."""
        assert plan is not None
        assert plan.out is not None
        try:
            return open_sink(plan, run)
        except FolderError as error:
            return LostSink(error)
        except TakenError as error:
            if not error.living and _written(Path(plan.out)) < _BEGAN:
                raise
        own = Path(plan.out) / f"process-{os.getpid()}"
        if len(self.recorders) == 1:
            self._folder = own
        warnings.warn(f"{plan.out} has the trace of another process; this one's goes to {own}", stacklevel=2)
        return open_sink(replace(plan, out=own), run)

    def step(self, **about: object) -> NoReturn:
        """A session has no run yet, so it has no steps: ProbeError."""
        raise ProbeError(
            place="capture session",
            expected="a recorder bound to a run",
            found="the session itself",
            next_step="In the engine: `with probes.open_recorder(run) as recorder:`, then recorder.step(...).",
        )

    def trace(self) -> MemoryTrace | DiskTrace:
        """The trace of the only run in this session; ProbeError when there was none or more than one."""
        if len(self.recorders) != 1:
            raise ProbeError(
                place="capture session",
                expected="one run",
                found=f"{len(self.recorders)}",
                next_step="An engine without probes shows none. For several, read each of `session.recorders`.",
            )
        return self.recorders[0].trace()

    def __enter__(self) -> Session:
        self._token = _INNERMOST.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            _INNERMOST.reset(self._token)

    def __repr__(self) -> str:
        return f"Session({self.plan}, {len(self.recorders)} runs)"


def capture(
    out: str | Path | None = None,
    *,
    layers: Sequence[int] = (),
    stages: Sequence[str] = (),
    tokens: str = "all",
    mode: str = "tensor",
    grafts: Sequence[Graft | ComputedGraft] = (),
) -> Session:
    """Capture every run of a probed engine inside `with capture(...) as session:`.

    Arguments as in CapturePlan; out: a folder, or None to keep the trace in memory (`session.trace()`).
    Raises UsageError for a plan that makes no sense.
    """
    folder = None if out is None else Path(out)
    return Session(CapturePlan(tuple(layers), tuple(stages), tokens, mode, folder), grafts)


def active() -> Session | _Off:
    """The session in force, else OFF. `active().bind(run)` gives the recorder for one run."""
    session = _INNERMOST.get()
    if session is not None:
        return session
    settings = tuple(os.environ.get(name) for name in VARIABLES)
    if not settings[0]:
        if settings[0] is None and any(settings[1:]):
            raise _filter_without_capture(settings)
        return OFF
    if settings not in _FROM_ENVIRONMENT:
        plan = plan_from_environment()
        _FROM_ENVIRONMENT[settings] = None if plan is None else Session(plan, shared=True)
    return _FROM_ENVIRONMENT[settings] or OFF


def _written(folder: Path) -> float:
    """When the trace or the statistics in a folder were last written to; 0 when there are none any more."""
    found = [path for path in (folder / MANIFEST, folder / STATS) if path.is_file()]
    return max((path.stat().st_mtime for path in found), default=0.0)


def _filter_without_capture(settings: tuple[str | None, ...]) -> UsageError:
    """Filters of a capture that nobody asked for: the run would look captured and leave nothing."""
    found = ", ".join(f"{name}={value}" for name, value in zip(VARIABLES, settings, strict=True) if value)
    return UsageError(
        place="environment",
        expected="PARITY_CAPTURE=dir beside the filters of a capture",
        found=found,
        next_step="Set PARITY_CAPTURE too, or unset these; PARITY_CAPTURE= (empty) turns capturing off.",
    )


def open_recorder(
    run: Run, plan: CapturePlan | None = None, grafts: Sequence[Graft | ComputedGraft] = ()
) -> Recorder | _Off:
    """The recorder a runner's forward pass should use: for its own plan and grafts, else the active one, else OFF."""
    if plan is not None or grafts:
        return Recorder(plan, run, grafts)
    return active().bind(run)
