"""How does a forward pass hand over its tensors? A recorder for one run, which gives a probe to each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from parity.errors import ProbeError, TraceError, UsageError
from parity.probes.computing import Held, PlacedComputation
from parity.probes.firing import Firings
from parity.probes.grafting import PlacedGraft
from parity.probes.plan import Tokens, admits, check_plan
from parity.probes.sinks import Sink, StatisticsSink, open_sink
from parity.probes.step import Asked, StepProbe
from parity.records import Rows, Run, site_name
from parity.runner import CapturePlan, ComputedGraft, Graft
from parity.stages import term
from parity.trace import DiskTrace, MemoryTrace


class Recorder:
    """Captures one run under a plan, and replaces tensors where a graft says so.

    plan: None captures nothing, for a run that only grafts. run: as the runner knows it; `run.declared` lists every
    site the forward pass passes through, and is narrowed here to what the plan admits.
    Use it as a context manager around the forward pass, once. Leaving it checks that every declared site fired once a
    step and that every row of every graft found its place (ProbeError), and ends the trace. If the body raised, its
    exception goes on and the trace stays incomplete. A disk that fails stops neither the body nor the leaving: it is
    warned of, kept as `failure`, and raised by `trace()`.
    open_: opens the sink; a session hands in one that finds another folder.
    Raises UsageError for a plan that makes no sense or names nothing the run has.
    """

    def __init__(
        self,
        plan: CapturePlan | None,
        run: Run,
        grafts: Sequence[Graft | ComputedGraft] = (),
        *,
        open_: Callable[[CapturePlan | None, Run], Sink] = open_sink,
    ) -> None:
        self.plan = plan
        self._open_sink = open_
        self.tokens = Tokens() if plan is None else check_plan(plan, layers=run.layers)
        self.run = _narrow(run, plan, grafts)
        self.captures = 0
        self._firings = Firings(self.run.declared)
        self.held = Held([graft for graft in grafts if not isinstance(graft, Graft)], self.run)
        self._grafts: dict[tuple[int | None, str], list[PlacedGraft | PlacedComputation]] = {}
        for graft in grafts:
            placed = PlacedGraft(graft) if isinstance(graft, Graft) else PlacedComputation(graft, self.held)
            self._grafts.setdefault((graft.layer, graft.stage), []).append(placed)
        self._asked: dict[tuple[int | None, str], Asked] = {}
        self._sink: Sink | None = None
        self._step: StepProbe | None = None
        self._open = False

    def bind(self, run: Run) -> Recorder:
        """Itself: it has its run already."""
        return self

    def __enter__(self) -> Recorder:
        if self._sink is not None:
            raise ProbeError(
                place="recorder", expected="one use", found="a second", next_step="Make a Recorder for each run."
            )
        self._sink = self._open_sink(self.plan, self.run)
        self._open = True
        return self

    def step(
        self,
        *,
        phase: str,
        step: int,
        rows: Rows,
        chunk: int = 0,
        last_position: Sequence[int] | None = None,
    ) -> StepProbe:
        """Begin a step (a prefill chunk or a decode step); its probe is called at each named point.

        rows: the token rows of this step, [T]. last_position: for each request of the run, the last absolute position
        of its prompt; needed for `tokens="last"`. Raises ProbeError outside the `with` block or for rows of a request
        that the run does not have.
        """
        if not self._open:
            raise ProbeError(
                place="recorder.step", expected="an open recorder", found="none", next_step="Use `with recorder:`."
            )
        _check_step(phase, rows, requests=len(self.run.requests))
        ends = None if last_position is None else len(last_position)
        if self.tokens.last and phase == "prefill" and ends != len(self.run.requests):
            raise ProbeError(
                place="recorder.step",
                expected=f"last_position of each of {len(self.run.requests)} requests: the plan keeps the last token",
                found=repr(last_position),
                next_step="Pass the last absolute position of each prompt, whatever chunk this is.",
            )
        self._end_step()
        self._firings.start_step(f"{phase} step {step} chunk {chunk}")
        self.sink.begin_step(phase, step, chunk)
        self._step = StepProbe(self, phase=phase, step=step, chunk=chunk, rows=rows, last_position=last_position)
        return self._step

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """The run goes on with ids that it chose, before the step that is fed them; computed grafts read them."""
        self.held.extend(request, ids)

    def asked(self, layer: int | None, stage: str) -> Asked:
        """What is to happen at a site; raises ConfigError for a word that is no stage."""
        place = (layer, stage)
        if place not in self._asked:
            term(stage)
            captured = self.plan is not None and admits(self.plan, layer, stage)
            self._asked[place] = Asked(captured, tuple(self._grafts.get(place, ())), self.held.wants(place))
        return self._asked[place]

    def is_current(self, probe: StepProbe) -> bool:
        """True for the probe of the step that is running."""
        return self._open and probe is self._step

    def fired(self, layer: int | None, stage: str) -> None:
        """Count one firing of a captured site, whether or not the token filter leaves rows of it."""
        self._firings.fired(layer, stage)

    @property
    def sink(self) -> Sink:
        """Where captures go; ProbeError before the recorder was entered."""
        if self._sink is None:
            raise ProbeError(
                place="recorder", expected="a run", found="none yet", next_step="Use `with recorder:` around the run."
            )
        return self._sink

    @property
    def failure(self) -> TraceError | None:
        """Why the disk did not keep the trace, or its rest; None while all is well."""
        return None if self._sink is None else self._sink.failure

    def trace(self) -> MemoryTrace | DiskTrace:
        """What was captured: from memory, or opened from `plan.out`. Raises ProbeError in statistics mode, and the
        `failure` when the disk failed; what it kept before is then read with `open_trace(plan.out)`."""
        return self.sink.trace()

    def statistics(self) -> list[dict[str, Any]]:
        """Statistics by (layer, stage, phase, step), see `parity.probes.statistics.Statistics.records`.

        Raises ProbeError unless the plan's mode is `stats`.
        """
        if not isinstance(self.sink, StatisticsSink):
            raise ProbeError(
                place="recorder.statistics",
                expected="a plan with mode stats",
                found="another",
                next_step="Use recorder.trace(), or CapturePlan(mode='stats').",
            )
        return self.sink.records()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if error is None:
            try:
                self._check()
            except BaseException:
                self.sink.close(complete=False)
                raise
            self.sink.close(complete=True)
            return
        # The body's exception is what matters: save what there is, and let nothing here hide it.
        try:
            self.sink.close(complete=False)
        except Exception as second:
            error.add_note(f"The trace could not be ended either: {second}")
        if self.failure is not None:
            error.add_note(f"The trace could not be ended either: {self.failure}")

    def _check(self) -> None:
        self._end_step()
        self._firings.check()
        for graft in (graft for grafts in self._grafts.values() for graft in grafts):
            graft.check()
        if self.plan is not None and not self.captures:
            raise ProbeError(
                place="capture",
                expected="at least one row",
                found=f"none: tokens={self.plan.tokens} fits no position of this run",
                next_step="Positions are absolute; widen the range.",
            )

    def _end_step(self) -> None:
        self._firings.end_step()
        self.held.end_step()
        self.sink.end_step()

    def __repr__(self) -> str:
        asked = "captures nothing" if self.plan is None else f"mode {self.plan.mode}, tokens {self.plan.tokens}"
        sites, grafts = len(self.run.declared), sum(map(len, self._grafts.values()))
        return f"Recorder({self.run.model}: {sites} sites, {asked}, {grafts} grafts; {self.captures} captures so far)"


def _narrow(run: Run, plan: CapturePlan | None, grafts: Sequence[Graft | ComputedGraft]) -> Run:
    """The run as the trace states it: declared sites under the plan, and where it was grafted."""
    declared = () if plan is None else tuple(place for place in run.declared if admits(plan, *place))
    if plan is not None and not declared:
        raise UsageError(
            place="capture plan",
            expected=f"some of the {len(run.declared)} sites that this run declares",
            found=f"layers {plan.layers or 'all'}, stages {plan.stages or 'all'}, which fit none of them",
            next_step="Stages outside the layers (logits) must be named in full when layers are given.",
        )
    flags = dict(run.flags)
    if grafts:
        flags["grafts"] = sorted({site_name(graft.layer, graft.stage) for graft in grafts})
    return replace(run, declared=declared, flags=flags)


def _check_step(phase: str, rows: Rows, *, requests: int) -> None:
    if phase not in ("prefill", "decode"):
        raise ProbeError(
            place="recorder.step", expected="phase prefill or decode", found=repr(phase), next_step="Name the phase."
        )
    if len(rows) and not 0 <= int(rows.request.min()) <= int(rows.request.max()) < requests:
        raise ProbeError(
            place="recorder.step",
            expected=f"rows of requests 0 to {requests - 1}",
            found=f"{int(rows.request.min())} to {int(rows.request.max())}",
            next_step="Rows.request indexes the run's requests.",
        )
