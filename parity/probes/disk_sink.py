"""How do captures reach the disk while an engine runs, and what happens when the disk fails? The engine goes on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from parity.errors import TraceError
from parity.records import Capture, Run
from parity.trace import DiskError, DiskTrace, MemoryTrace, TraceWriter, open_trace

BUFFER_BYTES = 256 * 2**20
"""Copies held on the device before they are moved off it in the middle of a step."""
FLUSH_SECONDS = 2.0
"""A killed process loses the captures of at most this long. A flush is three `fsync`, some 10 ms: half a percent."""


def warn_of(failure: TraceError) -> TraceError:
    """Tell of a failure where the user sees it, while the engine goes on."""
    warnings.warn(f"capture stopped, the engine goes on: {failure}", RuntimeWarning, stacklevel=2)
    return failure


class Buffer:
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

    def drain(self) -> Iterator[tuple[Capture, torch.Tensor]]:
        """The captures in order, each moved to the host as it is asked for and let go of."""
        items, self.items, self.size = self.items[::-1], [], 0
        while items:
            capture, tensor = items.pop()
            yield capture, tensor.cpu()


class LostSink:
    """Takes nothing: the folder that an environment variable names cannot be written, and the engine goes on."""

    def __init__(self, failure: TraceError) -> None:
        self.failure: TraceError | None = warn_of(failure)
        self._failure = failure

    def begin_step(self, phase: str, step: int, chunk: int) -> None:
        return None

    def take(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> None:
        return None

    def end_step(self) -> None:
        return None

    def close(self, *, complete: bool) -> None:
        return None

    def trace(self) -> MemoryTrace:
        raise self._failure


class DiskSink:
    """Writes a trace: a shard at the end of each step, and earlier when much has come together or some time is over.

    A tensor of the host is written at once and not copied; one of a device is copied there, and moved at the end of
    the step.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.failure: TraceError | None = None
        self.folder = folder
        self._buffer = Buffer()
        self._writer: TraceWriter | None = None
        self._flushed = time.monotonic()
        try:
            self._writer = TraceWriter(folder, run)
        except DiskError as error:
            self.failure = warn_of(error)

    def begin_step(self, phase: str, step: int, chunk: int) -> None:
        if self._writer is not None:
            try:
                self._writer.begin_step(phase, step, chunk)
            except TraceError as error:
                self._fail(error)

    def take(self, capture: Capture, tensor: torch.Tensor, *, owned: bool) -> None:
        if self._writer is None:
            return
        if tensor.device.type == "cpu" and not self._buffer.items:
            try:
                self._writer.add(capture, tensor)
            except TraceError as error:
                self._fail(error)
            full = False
        else:
            full = self._buffer.add(capture, tensor, owned=owned)
        if full or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.end_step()

    def end_step(self) -> None:
        if self._writer is None:
            return
        try:
            for capture, tensor in self._buffer.drain():
                self._writer.add(capture, tensor)
            self._writer.flush()
        except TraceError as error:
            self._fail(error)
        self._flushed = time.monotonic()

    def close(self, *, complete: bool) -> None:
        self.end_step()
        if self._writer is not None:
            try:
                self._writer.close(complete=complete)
            except TraceError as error:
                self._fail(error)
            except BaseException:
                self._writer.abandon()
                raise

    def trace(self) -> DiskTrace:
        if self.failure is not None:
            raise self.failure
        return open_trace(self.folder)

    def _fail(self, error: TraceError) -> None:
        if self._writer is not None:
            self._writer.abandon()
        self._writer = None
        self._buffer = Buffer()
        self.failure = warn_of(error)
