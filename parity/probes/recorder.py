"""How does a forward pass hand over its tensors? A recorder for one run, and a probe for each of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch

from parity.errors import ProbeError, UsageError
from parity.probes.firing import Firings
from parity.probes.grafting import PlacedGraft
from parity.probes.plan import Tokens, admits, check_plan
from parity.probes.statistics import Statistics, measure
from parity.records import Capture, Rows, Run, as_json, site_name
from parity.runner import CapturePlan, Graft
from parity.stages import term
from parity.trace import DiskTrace, MemoryTrace, TraceWriter, open_trace

BUFFER_BYTES = 256 * 2**20
"""Clones held on the device before they are moved off it in the middle of a step."""


class Recorder:
    """Captures one run under a plan, and replaces tensors where a graft says so.

    plan: None captures nothing, for a run that only grafts. run: as the runner knows it; `run.declared` lists every
    site the forward pass passes through, and is narrowed here to what the plan admits.
    Use it as a context manager around the forward pass. Leaving it checks that every declared site fired once a step
    and that every row of every graft found its place (ProbeError), and ends the trace. If the body raised, its
    exception goes on and the trace stays incomplete.
    Raises UsageError for a plan that names nothing the run has.
    """

    def __init__(self, plan: CapturePlan | None, run: Run, grafts: Sequence[Graft] = ()) -> None:
        self.plan = plan
        self.grafts = tuple(PlacedGraft(graft) for graft in grafts)
        self.tokens = Tokens() if plan is None else check_plan(plan, layers=run.layers)
        self.run = _narrow(run, plan, grafts)
        self.complete = False
        self._grafted = {(graft.layer, graft.stage) for graft in grafts}
        self._firings = Firings(self.run.declared)
        self._captures: list[Capture] = []
        self._tensors: dict[int, torch.Tensor] = {}
        self._statistics = Statistics()
        self._pending: list[tuple[Capture, torch.Tensor]] = []
        self._pending_bytes = 0
        self._measured: list[tuple[Capture, int, torch.Tensor]] = []
        self._writer: TraceWriter | None = None
        self._entered = False
        self._step: _StepProbe | None = None

    @property
    def statistics_only(self) -> bool:
        return self.plan is not None and self.plan.mode == "stats"

    def bind(self, run: Run) -> Recorder:
        """Itself: it has its run already."""
        return self

    def __enter__(self) -> Recorder:
        if self._entered:
            raise ProbeError(
                place="recorder", expected="one use", found="a second", next_step="Make a Recorder for each run."
            )
        self._entered = True
        if self.plan is not None and self.plan.out is not None and not self.statistics_only:
            self._writer = TraceWriter(self.plan.out, self.run)
        return self

    def step(
        self,
        *,
        phase: str,
        step: int,
        rows: Rows,
        chunk: int = 0,
        last_position: Sequence[int] | None = None,
    ) -> _StepProbe:
        """Begin a step (a prefill chunk or a decode step); its probe is called at each named point.

        rows: the token rows of this step, [T]. last_position: for each request of the run, the last absolute position
        of its prompt; needed for `tokens="last"`. Raises ProbeError outside the `with` block or for rows of a request
        that the run does not have.
        """
        if not self._entered or self.complete:
            raise ProbeError(
                place="recorder", expected="an open recorder", found="a closed one", next_step="Use `with recorder:`."
            )
        requests = len(self.run.requests)
        if phase not in ("prefill", "decode"):
            raise ProbeError(
                place="recorder.step",
                expected="phase prefill or decode",
                found=repr(phase),
                next_step="Name the phase.",
            )
        if len(rows) and not 0 <= int(rows.request.min()) <= int(rows.request.max()) < requests:
            raise ProbeError(
                place="recorder.step",
                expected=f"rows of requests 0 to {requests - 1}",
                found=f"{int(rows.request.min())} to {int(rows.request.max())}",
                next_step="Rows.request indexes the run's requests.",
            )
        if self.tokens.last and phase == "prefill" and (last_position is None or len(last_position) != requests):
            raise ProbeError(
                place="recorder.step",
                expected=f"last_position for each of {requests} requests, since the plan keeps the last token only",
                found=repr(last_position),
                next_step="Pass the last absolute position of each prompt, whatever chunk this is.",
            )
        self._end_step()
        self._firings.start_step(f"{phase} step {step} chunk {chunk}")
        self._step = _StepProbe(self, phase=phase, step=step, chunk=chunk, rows=rows, last_position=last_position)
        return self._step

    def trace(self) -> MemoryTrace | DiskTrace:
        """What was captured; from memory, or opened from `plan.out`. Raises ProbeError in statistics mode."""
        if self.statistics_only:
            raise ProbeError(
                place="recorder.trace",
                expected="a plan with mode tensor",
                found="mode stats, which keeps no tensors",
                next_step="Use recorder.statistics(), or stats.json in the plan's folder.",
            )
        if self.plan is not None and self.plan.out is not None:
            return open_trace(self.plan.out)
        return MemoryTrace(self.run, tuple(self._captures), self._tensors, complete=self.complete)

    def statistics(self) -> list[dict[str, Any]]:
        """Statistics by (layer, stage, phase, step), see `parity.probes.statistics.Statistics.records`."""
        self._drain()
        return self._statistics.records()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            # The body's exception is what matters: save what there is, and let nothing here hide it.
            try:
                self._close(complete=False)
            except Exception as second:
                if error is not None:
                    error.add_note(f"The trace could not be ended either: {second}")
            return
        try:
            self._check()
        except BaseException:
            self._close(complete=False)
            raise
        self._close(complete=True)

    def _check(self) -> None:
        self._end_step()
        self._firings.check()
        for graft in self.grafts:
            lost = int((~graft.placed).sum())
            if lost:
                raise ProbeError(
                    place=f"graft at {graft.name}",
                    expected=f"all of its {len(graft.placed)} rows to be put into the forward pass",
                    found=f"{lost} rows that this run never computed",
                    next_step="Name rows by the run's own requests and absolute positions.",
                )
        self._drain()
        seen = len(self._statistics) if self.statistics_only else len(self._captures)
        if self.plan is not None and not seen:
            raise ProbeError(
                place="capture",
                expected="at least one row",
                found=f"none: tokens={self.plan.tokens} fits no position of this run",
                next_step="Positions are absolute; widen the range.",
            )

    def _close(self, *, complete: bool) -> None:
        self._drain()
        self.complete = complete
        if self._writer is not None:
            self._writer.close(complete=complete)
        elif self.statistics_only and self.plan is not None and self.plan.out is not None:
            self._statistics.write(self.plan.out, self.run, complete=complete)

    def _end_step(self) -> None:
        self._firings.end_step()
        self._drain()
        if self._writer is not None:
            self._writer.flush()

    def _drain(self) -> None:
        """Move what is held on the device to where it stays. Once a step: a copy a probe would stall the device."""
        for capture, tensor in self._pending:
            self._captures.append(capture)
            if self._writer is not None:
                self._writer.add(capture, tensor.cpu())
            else:
                self._tensors[capture.number] = tensor.cpu()
        self._pending.clear()
        self._pending_bytes = 0
        if self._measured:
            moments = torch.stack([vector for _, _, vector in self._measured]).tolist()
            for (capture, numel, _), values in zip(self._measured, moments, strict=True):
                key = (capture.layer, capture.stage, capture.phase, capture.step)
                self._statistics.add(key, rows=len(capture.rows), numel=numel, moments=values)
            self._measured.clear()

    def _take(self, capture: Capture, tensor: torch.Tensor) -> None:
        if self.statistics_only:
            self._measured.append((capture, tensor.numel(), measure(tensor)))
            return
        self._pending.append((capture, tensor))
        self._pending_bytes += tensor.numel() * tensor.element_size()
        if self._pending_bytes >= BUFFER_BYTES:
            self._drain()

    def _next_number(self) -> int:
        return len(self._captures) + len(self._pending)

    def __repr__(self) -> str:
        asked = "nothing captured" if self.plan is None else f"mode {self.plan.mode}, tokens {self.plan.tokens}"
        return f"Recorder({self.run.model}: {len(self.run.declared)} sites, {asked}, {len(self.grafts)} grafts)"


class _StepProbe:
    """The probe of one step: called with a tensor at each named point of the forward pass."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        phase: str,
        step: int,
        chunk: int,
        rows: Rows,
        last_position: Sequence[int] | None,
    ) -> None:
        self._recorder = recorder
        self._phase = phase
        self._step = step
        self._chunk = chunk
        self._rows = rows
        self._last_position = last_position

    def wants(self, stage: str, layer: int | None = None) -> bool:
        """True when this point is captured or grafted: whether a kernel is to be given its optional output."""
        recorder = self._recorder
        captured = recorder.plan is not None and admits(recorder.plan, layer, stage)
        return captured or (layer, stage) in recorder._grafted

    def __call__(
        self,
        stage: str,
        tensor: torch.Tensor,
        layer: int | None = None,
        *,
        rows: Rows | None = None,
        geometry: Mapping[str, Any] | None = None,
        launch: Any = None,
        placement: Mapping[str, Any] | None = None,
        reduction: str = "complete",
        basis: str | None = None,
        model: str = "target",
        variant: str | None = None,
        replaceable: bool = True,
    ) -> torch.Tensor:
        """Hand over `tensor` at `stage` of `layer`; returns the tensor to go on with.

        tensor: axes as the vocabulary says, leading axis the rows. rows: [N], left out for the step's token rows.
        geometry, launch: mappings or records of plain values; tensors and arrays become lists.
        replaceable: False where the forward pass cannot go on with a returned tensor (a fused kernel's inner value).
        Returns `tensor` itself, or, under a graft, a contiguous copy with the named rows replaced. A capture is a copy
        of what is returned. Raises ProbeError when shape, axes and rows contradict each other.
        """
        recorder = self._recorder
        if recorder._step is not self:
            raise ProbeError(
                place=site_name(layer, stage),
                expected="the probe of the current step",
                found="that of an earlier one",
                next_step="Take a new probe from recorder.step() for each step.",
            )
        if not self.wants(stage, layer):
            return tensor
        rows = self._rows if rows is None else rows
        _check_rows(stage, layer, tensor, rows)
        if (layer, stage) in recorder._grafted:
            if not replaceable:
                raise ProbeError(
                    place=f"graft at {site_name(layer, stage)}",
                    expected="a point whose tensor can be replaced",
                    found="a value inside a fused kernel",
                    next_step="Graft at the kernel's inputs or at its last stage.",
                )
            for graft in recorder.grafts:
                if (graft.graft.layer, graft.graft.stage) == (layer, stage):
                    tensor = graft.apply(tensor, rows)
        if recorder.plan is None or not admits(recorder.plan, layer, stage):
            return tensor
        recorder._firings.fired(layer, stage)
        kept = recorder.tokens.keep(rows, phase=self._phase, last_position=self._last_position)
        shape_of_launch = dict(_plain(geometry))
        if kept is None:
            # As good as `clone`, and contiguous whatever the engine's own strides are.
            copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        else:
            index = np.flatnonzero(kept)
            rows = rows.take(index)
            copy = tensor.detach()[torch.from_numpy(index).to(tensor.device)]
            # expert_offsets and tiles speak of the whole launch: keep which of its rows these were.
            shape_of_launch["row"] = index.astype(np.int64)
        if not len(rows):
            return tensor
        recorder._take(
            Capture(
                number=recorder._next_number(),
                stage=stage,
                layer=layer,
                phase=self._phase,
                step=self._step,
                chunk=self._chunk,
                axes=term(stage).axes,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(copy.shape),
                rows=rows,
                geometry=shape_of_launch,
                launch=_plain(launch),
                placement=placement,
                reduction=reduction,
                basis=basis,
                model=model,
                variant=variant,
            ),
            copy,
        )
        return tensor


def _narrow(run: Run, plan: CapturePlan | None, grafts: Sequence[Graft]) -> Run:
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


def _check_rows(stage: str, layer: int | None, tensor: torch.Tensor, rows: Rows) -> None:
    axes = term(stage).axes
    place = site_name(layer, stage)
    if tensor.dim() != len(axes) or tensor.shape[0] != len(rows):
        raise ProbeError(
            place=place,
            expected=f"axes {' '.join(axes)} with {len(rows)} rows",
            found=f"shape {tuple(tensor.shape)}",
            next_step="Pass the tensor with these axes, and rows= when it has others than the step's token rows.",
        )
    expert_rows = axes[0] == "R"
    if (rows.slot is not None) != expert_rows or (rows.expert is not None) != expert_rows:
        raise ProbeError(
            place=place,
            expected="slot and expert of each row" if expert_rows else "token rows, without slot and expert",
            found="rows without them" if expert_rows else "rows with them",
            next_step="Pass rows=Rows(request, position, slot, expert) exactly at the expert stages.",
        )


def _plain(value: Any) -> Mapping[str, Any]:
    """Geometry or launch as plain JSON values; tensors are read off the device here."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        value = {key: item.tolist() if isinstance(item, torch.Tensor) else item for key, item in value.items()}
    return as_json(value)
