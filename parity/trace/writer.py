"""How does a trace get onto the disk so that a killed process leaves a readable one?

Payloads are collected and written as one shard a flush; the shard is on the disk before the manifest lines that name
it are appended, and a capture without its line does not count. Nothing is ever rewritten.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parity.errors import TraceError
from parity.records import Capture, Run
from parity.trace.journal import MANIFEST, encode_line
from parity.trace.manifest import capture_line, header_line, shard_name
from parity.trace.rowdata import encode, fields_of
from parity.trace.shard import dtype_name, make_folder, payload_bytes, sync_folder, write_shard
from parity.trace.trace import Trace

FLUSH_BYTES = 256 * 2**20


class TraceWriter:
    """Writes one trace into `folder`, which must not hold one yet (it is made if it is not there).

    run: goes into the header, so it must be final. flush_bytes: buffered payload at which a shard is written by itself;
    a forward pass flushes at the end of each step besides.
    Raises TraceError when the folder already holds a manifest.
    """

    def __init__(self, folder: str | Path, run: Run, *, flush_bytes: int = FLUSH_BYTES) -> None:
        self.folder = Path(folder)
        self.run = run
        self.flush_bytes = flush_bytes
        self.captures = 0
        self.shards = 0
        self._chain = 0
        self._last = -1
        self._pending: list[tuple[Capture, torch.Tensor]] = []
        self._bytes = 0
        make_folder(self.folder)
        try:
            # Exclusive: of two processes that were given one folder, the second stops here.
            self._manifest = (self.folder / MANIFEST).open("xb")
        except FileExistsError:
            raise TraceError(
                place=str(self.folder),
                expected="a folder without a trace",
                found=f"a {MANIFEST} in it",
                next_step="Choose another folder, or remove the old trace first.",
            ) from None
        self._append([header_line(run)])
        sync_folder(self.folder)

    def add(self, capture: Capture, tensor: torch.Tensor) -> None:
        """Take one capture. `tensor` is kept, not copied: the caller must not change it before the next flush.

        Raises TraceError when the tensor is not what the capture says, or its number does not rise.
        """
        if self._manifest.closed:
            raise TraceError(
                place=str(self.folder), expected="an open writer", found="a closed one", next_step="Add before close()."
            )
        said = (capture.dtype, tuple(capture.shape), len(capture.rows))
        found = (dtype_name(tensor.dtype), tuple(tensor.shape), tensor.shape[0] if tensor.dim() else None)
        if said != found or capture.number <= self._last:
            raise TraceError(
                place=f"capture {capture.number} ({capture.name})",
                expected=f"dtype, shape and rows {said}, and a number above {self._last}",
                found=f"{found} and number {capture.number}",
                next_step="Build the capture from the tensor that is handed over with it, in order.",
            )
        self._last = capture.number
        self._pending.append((capture, tensor))
        self._bytes += tensor.numel() * tensor.element_size()
        if self._bytes >= self.flush_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered as one shard, then its manifest lines. Nothing buffered: nothing written."""
        if not self._pending:
            return
        name = shard_name(self.shards)
        tensors: dict[str, torch.Tensor] = {}
        seen: dict[bytes, str] = {}

        def store(tensor: torch.Tensor) -> str:
            # The expert rows of gate, up, act and down are the same: one companion tensor a shard serves all.
            key = hashlib.blake2b(payload_bytes(tensor), person=str(tensor.dtype)[-16:].encode()).digest()
            if key not in seen:
                seen[key] = f"rows.{len(seen)}"
                tensors[seen[key]] = tensor
            return seen[key]

        rows: list[dict[str, Any]] = []
        for capture, tensor in self._pending:
            rows.append({field: encode(values, store) for field, values in fields_of(capture).items()})
            tensors[f"capture.{capture.number}"] = tensor
        crcs = write_shard(self.folder / name, tensors)
        self.shards += 1
        self._append(
            [
                capture_line(
                    capture,
                    shard=name,
                    tensor=f"capture.{capture.number}",
                    crc=crcs[f"capture.{capture.number}"],
                    rows=encoded,
                )
                for (capture, _), encoded in zip(self._pending, rows, strict=True)
            ]
        )
        self.captures += len(self._pending)
        self._pending.clear()
        self._bytes = 0

    def close(self, complete: bool = True) -> None:
        """Flush and end the trace. complete: False leaves out the `end` line, so that readers see it is unfinished."""
        if self._manifest.closed:
            return
        try:
            self.flush()
            if complete:
                self._append([{"kind": "end", "captures": self.captures, "shards": self.shards}])
        finally:
            self._manifest.close()

    def abandon(self) -> None:
        """Close without writing what is buffered, after the disk failed; the trace stays incomplete."""
        self._pending.clear()
        self._manifest.close()

    def _append(self, lines: list[Mapping[str, Any]] | list[dict[str, Any]]) -> None:
        for line in lines:
            raw = encode_line(line, self._chain)
            self._manifest.write(raw)
            self._chain = zlib.crc32(raw, self._chain)
        self._manifest.flush()
        os.fsync(self._manifest.fileno())

    def __repr__(self) -> str:
        return f"TraceWriter({str(self.folder)!r}, {self.captures} captures in {self.shards} shards)"


def save_trace(folder: str | Path, trace: Trace) -> None:
    """Write any trace, one from memory for instance, into `folder`; an incomplete one stays incomplete."""
    writer = TraceWriter(folder, trace.run)
    for capture in trace.captures:
        writer.add(capture, trace.tensor(capture))
    writer.close(complete=trace.complete)
