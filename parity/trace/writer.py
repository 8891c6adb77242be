"""How does a trace get onto the disk so that a killed process leaves a readable one?

Payloads go straight into a shard; the shard is finished and on the disk before the manifest lines that name it are
appended, and a capture without its line does not count. Nothing is ever rewritten, and no payload is held.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from parity.errors import TraceError
from parity.records import Capture, Run
from parity.trace.failure import disk_failure, make_folder
from parity.trace.journal import MANIFEST, encode_line
from parity.trace.lock import hold, taken
from parity.trace.manifest import capture_line, header_line, shard_name, step_line
from parity.trace.rowdata import FIELDS, encode, fields_of
from parity.trace.shard import dtype_name
from parity.trace.shard_writer import ShardWriter, payload_bytes, sync_folder, write_all
from parity.trace.trace import Trace

FLUSH_BYTES = 256 * 2**20
MAX_TENSORS = 50_000
"""Most tensors for which a shard's header keeps room: half of what readers accept."""


class TraceWriter:
    """Writes one trace into `folder`, which must not hold one yet (it is made if it is not there).

    run: goes into the header, so it must be final. flush_bytes: payload at which a shard is ended by itself;
    a forward pass flushes at the end of each step besides.
    Raises TakenError when the folder already holds a manifest, saying whether its writer still lives, FolderError when
    the folder cannot be made, and DiskError when the disk fails, here or later; what was flushed before stays
    readable, and the writer is closed.
    """

    def __init__(self, folder: str | Path, run: Run, *, flush_bytes: int = FLUSH_BYTES) -> None:
        self.folder = Path(folder)
        self.run = run
        self.flush_bytes = flush_bytes
        self.captures = 0
        self.shards = 0
        self._written = 0
        self._chain = 0
        self._length = 0
        self._last = -1
        self._shard: ShardWriter | None = None
        self._companions: dict[bytes, str] = {}
        self._lines: list[dict[str, Any]] = []
        make_folder(self.folder)
        try:
            # Exclusive: of two processes that were given one folder, the second stops here.
            self._manifest = (self.folder / MANIFEST).open("xb", buffering=0)
        except FileExistsError:
            raise taken(self.folder / MANIFEST) from None
        except OSError as error:
            raise disk_failure(error, self.folder, written="nothing") from error
        hold(self._manifest.fileno())
        try:
            self._append([header_line(run)])
            sync_folder(self.folder)
        except OSError as error:
            self._fail(error, self.folder / MANIFEST)

    def begin_step(self, phase: str, step: int, chunk: int) -> None:
        """Say which step begins, so that a killed process leaves word of what it was doing. Flushes what came before.

        Not forced onto the disk: it outlives the process, and a crash of the whole machine may lose it.
        """
        self._check_open()
        self.flush()
        try:
            self._append([step_line(phase, step, chunk)], sync=False)
        except OSError as error:
            self._fail(error, self.folder / MANIFEST)

    def add(self, capture: Capture, tensor: torch.Tensor) -> None:
        """Write the payload of one capture through to the open shard; nothing of `tensor` is kept.

        Raises TraceError when the tensor is not what the capture says, or its number does not rise.
        """
        self._check_open()
        said = (capture.dtype, tuple(capture.shape), len(capture.rows))
        found = (dtype_name(tensor.dtype), tuple(tensor.shape), tensor.shape[0] if tensor.dim() else None)
        if said != found or capture.number <= self._last:
            raise TraceError(
                place=f"capture {capture.number} ({capture.name})",
                expected=f"dtype, shape and rows {said}, and a number above {self._last}",
                found=f"{found} and number {capture.number}",
                next_step="Build the capture from the tensor that is handed over with it, in order.",
            )
        try:
            self._store(capture, tensor)
        except OSError as error:
            self._fail(error, self.folder / shard_name(self.shards))
        self._last = capture.number

    def flush(self) -> None:
        """End the open shard, then append its manifest lines. Nothing added since the last one: nothing written."""
        if self._shard is None:
            return
        place = self._shard.path
        try:
            self._shard.finish()
            place = self.folder / MANIFEST
            self._append(self._lines)
        except OSError as error:
            self._fail(error, place)
        size, self._shard = self._shard.payload, None
        self.shards += 1
        self.captures += len(self._lines)
        self._written += size
        self._lines.clear()

    def close(self, complete: bool = True) -> None:
        """Flush and end the trace. complete: False leaves out the `end` line, so that readers see it is unfinished."""
        if self._manifest.closed:
            return
        self.flush()
        try:
            if complete:
                self._append([{"kind": "end", "captures": self.captures, "shards": self.shards}])
            self._manifest.close()
        except OSError as error:
            self._fail(error, self.folder / MANIFEST)

    def abandon(self) -> None:
        """Close without what was not flushed; the trace stays incomplete."""
        if self._shard is not None:
            self._shard.discard()
            self._shard = None
        self._lines.clear()
        with suppress(OSError):
            self._manifest.close()

    def _store(self, capture: Capture, tensor: torch.Tensor) -> None:
        if self._shard is not None and not self._shard.has_room(1 + len(FIELDS)):
            self.flush()
        if self._shard is None:
            # A step has a payload a declared site, and the row tensors that its sites share.
            room = min(max(3 * len(self.run.declared), 64), MAX_TENSORS)
            self._shard = ShardWriter(self.folder / shard_name(self.shards), tensors=room)
            self._companions.clear()
        shard, name = self._shard, f"capture.{capture.number}"

        def store(rows: torch.Tensor) -> str:
            # The expert rows of gate, up, act and down are the same: one companion tensor a shard serves all.
            key = hashlib.blake2b(payload_bytes(rows), person=str(rows.dtype)[-16:].encode()).digest()
            if key not in self._companions:
                self._companions[key] = f"rows.{len(self._companions)}"
                shard.append(self._companions[key], rows)
            return self._companions[key]

        crc = shard.append(name, tensor)
        rows = {field: encode(values, store) for field, values in fields_of(capture).items()}
        self._lines.append(capture_line(capture, shard=shard.path.name, tensor=name, crc=crc, rows=rows))
        if shard.payload >= self.flush_bytes:
            self.flush()

    def _append(self, lines: list[dict[str, Any]], *, sync: bool = True) -> None:
        chain, parts = self._chain, []
        for line in lines:
            raw = encode_line(line, chain)
            parts.append(raw)
            chain = zlib.crc32(raw, chain)
        text = b"".join(parts)
        write_all(self._manifest, memoryview(text))
        if sync:
            os.fsync(self._manifest.fileno())
        self._chain, self._length = chain, self._length + len(text)

    def _fail(self, error: OSError, place: Path) -> NoReturn:
        """The disk failed: leave what was flushed as a readable, unfinished trace, and say so."""
        try:
            # Half a line would read as torn; cutting it off needs no room.
            os.ftruncate(self._manifest.fileno(), self._length)
        except OSError:
            self._shard = None  # a line that names it may stand: leave the file
        self.abandon()
        written = f"{self.captures} captures, {self._written} bytes of tensors in {self.shards} shards"
        raise disk_failure(error, place, written=written, readable=self._length > 0) from error

    def _check_open(self) -> None:
        if self._manifest.closed:
            raise TraceError(
                place=str(self.folder), expected="an open writer", found="a closed one", next_step="Add before close()."
            )

    def __repr__(self) -> str:
        return f"TraceWriter({str(self.folder)!r}, {self.captures} captures in {self.shards} shards)"


def save_trace(folder: str | Path, trace: Trace) -> None:
    """Write any trace, one from memory for instance, into `folder`; an incomplete one stays incomplete."""
    writer = TraceWriter(folder, trace.run)
    try:
        for capture in trace.captures:
            writer.add(capture, trace.tensor(capture))
        writer.close(complete=trace.complete)
    except BaseException:
        writer.abandon()
        raise
