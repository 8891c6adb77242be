"""Where do captures go: into memory, onto the disk, or into statistics? One sink for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from parity.errors import ProbeError
from parity.probes.statistics import Statistics, measure
from parity.records import Capture, Run
from parity.runner import CapturePlan
from parity.trace import DiskTrace, MemoryTrace, TraceWriter, open_trace

BUFFER_BYTES = 256 * 2**20
"""Copies held on the device before they are moved off it in the middle of a step."""


class Sink(Protocol):
    """Takes captures while the forward pass runs. Nothing is moved off the device before `end_step`, unless a buffer
    is full: a copy to the host at every probe would stall the device."""

    def take(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> None:
        """One capture; `owned` is False when `tensor` may still be the engine's own memory."""
        ...

    def end_step(self) -> None: ...

    def close(self, *, complete: bool) -> None: ...

    def trace(self) -> MemoryTrace | DiskTrace: ...


def open_sink(plan: CapturePlan | None, run: Run) -> Sink:
    """The sink that a plan asks for; TraceError when its folder already holds a trace."""
    folder = None if plan is None or plan.out is None else Path(plan.out)
    if plan is not None and plan.mode == "stats":
        return StatisticsSink(run, folder)
    return MemorySink(run) if folder is None else DiskSink(run, folder)


class _Buffer:
    """Copies still on the device."""

    def __init__(self) -> None:
        self.items: list[tuple[Capture, torch.Tensor]] = []
        self.size = 0

    def add(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> bool:
        """Keep a copy, contiguous whatever the engine's strides are; True when the buffer is full."""
        if not owned:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        self.items.append((capture, tensor))
        self.size += tensor.numel() * tensor.element_size()
        return self.size >= BUFFER_BYTES

    def drain(self) -> list[tuple[Capture, torch.Tensor]]:
        items, self.items, self.size = self.items, [], 0
        return [(capture, tensor.cpu()) for capture, tensor in items]


class MemorySink:
    """Keeps tensors in host memory."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = _Buffer()
        self._captures: list[Capture] = []
        self._tensors: dict[int, torch.Tensor] = {}
        self._complete = False

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


class DiskSink:
    """Writes a trace: a shard at the end of each step, and earlier when much has come together."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._writer = TraceWriter(folder, run)
        self._buffer = _Buffer()

    def take(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> None:
        if self._buffer.add(capture, tensor, owned=owned):
            self.end_step()

    def end_step(self) -> None:
        for capture, tensor in self._buffer.drain():
            self._writer.add(capture, tensor)
        self._writer.flush()

    def close(self, *, complete: bool) -> None:
        try:
            self.end_step()
        except BaseException:
            self._writer.abandon()
            raise
        self._writer.close(complete=complete)

    def trace(self) -> DiskTrace:
        return open_trace(self._writer.folder)


class StatisticsSink:
    """Keeps numbers only; writes `stats.json` at the end when there is a folder for it."""

    def __init__(self, run: Run, folder: Path | None) -> None:
        self._run = run
        self._folder = folder
        self._measured: list[tuple[Capture, int, torch.Tensor]] = []
        self._statistics = Statistics()

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
        if self._folder is not None:
            self._statistics.write(self._folder, self._run, complete=complete)

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
