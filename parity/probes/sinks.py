"""Where do captures go: into memory, onto the disk, or into statistics? One sink for each.

No sink raises while the forward pass runs: a full disk costs the trace, never the engine's output. What failed is kept
as the sink's `failure`, told once as a warning, and raised when somebody asks for the trace.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from parity.errors import ProbeError, TraceError
from parity.probes.disk_sink import Buffer, DiskSink, warn_of
from parity.probes.statistics import STATS, Statistics, measure
from parity.records import Capture, Run
from parity.runner import CapturePlan
from parity.trace import DiskTrace, MemoryTrace
from parity.trace.failure import disk_failure, make_folder
from parity.trace.lock import Claim


class Sink(Protocol):
    """Takes captures while the forward pass runs. Nothing is moved off the device before `end_step`, unless a buffer
    is full: a copy to the host at every probe would stall the device.

    failure: why the trace could not be kept, or its rest; None while all is well.
    """

    failure: TraceError | None

    def begin_step(self, phase: str, step: int, chunk: int) -> None: ...

    def take(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> None:
        """One capture; `owned` is False when `tensor` may still be the engine's own memory."""
        ...

    def end_step(self) -> None: ...

    def close(self, *, complete: bool) -> None: ...

    def trace(self) -> MemoryTrace | DiskTrace: ...


def open_sink(plan: CapturePlan | None, run: Run) -> Sink:
    """The sink that a plan asks for.

    Raises TakenError when its folder already holds a trace, FolderError when the folder cannot be made or written:
    before anything is computed. A disk that fails later is the sink's `failure`.
    """
    folder = None if plan is None or plan.out is None else Path(plan.out)
    if plan is not None and plan.mode == "stats":
        return StatisticsSink(run, folder)
    return MemorySink(run) if folder is None else DiskSink(run, folder)


class MemorySink:
    """Keeps tensors in host memory."""

    def __init__(self, run: Run) -> None:
        self.failure: TraceError | None = None
        self._run = run
        self._buffer = Buffer()
        self._captures: list[Capture] = []
        self._tensors: dict[int, torch.Tensor] = {}
        self._complete = False

    def begin_step(self, phase: str, step: int, chunk: int) -> None:
        return None

    def take(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> None:
        if self._buffer.add(capture, tensor, owned=owned):
            self.end_step()

    def end_step(self) -> None:
        for capture, tensor in self._buffer.drain():
            self._captures.append(capture)
            self._tensors[capture.number] = tensor

    def close(self, *, complete: bool) -> None:
        self.end_step()
        self._complete = complete

    def trace(self) -> MemoryTrace:
        return MemoryTrace(self._run, tuple(self._captures), self._tensors, complete=self._complete)


class StatisticsSink:
    """Keeps numbers only; writes `stats.json` at the end when there is a folder for it."""

    def __init__(self, run: Run, folder: Path | None) -> None:
        self.failure: TraceError | None = None
        self._run = run
        self._measured: list[tuple[Capture, int, torch.Tensor]] = []
        self._statistics = Statistics()
        self._claim: Claim | None = None
        if folder is not None:
            make_folder(folder)
            try:
                self._claim = Claim(folder / STATS)
            except OSError as error:
                self.failure = warn_of(disk_failure(error, folder / STATS, written="nothing"))

    def begin_step(self, phase: str, step: int, chunk: int) -> None:
        return None

    def take(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> None:
        self._measured.append((capture, tensor.numel(), measure(tensor)))

    def end_step(self) -> None:
        if not self._measured:
            return
        moments = torch.stack([vector for _, _, vector in self._measured]).tolist()
        for (capture, numel, _), values in zip(self._measured, moments, strict=True):
            key = (capture.layer, capture.stage, capture.phase, capture.step)
            self._statistics.add(key, rows=len(capture.rows), numel=numel, moments=values)
        self._measured.clear()

    def close(self, *, complete: bool) -> None:
        self.end_step()
        claim, self._claim = self._claim, None
        if claim is None:
            return
        try:
            claim.publish(self._statistics.encode(self._run, complete=complete))
        except OSError as error:
            claim.release()
            self.failure = warn_of(disk_failure(error, claim.path, written="nothing; statistics() has the numbers"))
        except BaseException:
            claim.release()
            raise

    def records(self) -> list[dict[str, Any]]:
        """See `Statistics.records`."""
        self.end_step()
        return self._statistics.records()

    def trace(self) -> MemoryTrace:
        raise ProbeError(
            place="recorder.trace",
            expected="a plan with mode tensor",
            found="mode stats, which keeps no tensors",
            next_step="Use recorder.statistics(), or stats.json in the plan's folder.",
        )
