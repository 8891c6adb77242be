"""What is in a trace on disk? Opens the manifest, checks it, and maps payloads when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parity.errors import TraceError
from parity.records import Capture, Run
from parity.trace.journal import MANIFEST, TORN, read_lines
from parity.trace.manifest import parse_capture, parse_header, restore_geometry
from parity.trace.rowdata import decode
from parity.trace.shard import Shard, dtype_name
from parity.trace.trace import ANY, describe, select

# Each mapping holds a file descriptor on Python 3.11; a thousand decode steps are a thousand shards.
OPEN_SHARDS = 64


class DiskTrace:
    """A trace on disk. Manifest and row metadata are in memory, payloads are mapped on access.

    `complete` is False when the manifest has no `end` line: the run failed or was killed, and what is listed is what
    was safely written before that. `torn` is True when the last line was cut off in the middle.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.complete = False
        self.torn = False
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._payloads: dict[int, tuple[str, str, int]] = {}
        self._companions: dict[tuple[str, str], torch.Tensor] = {}
        self._named: set[tuple[str, str]] = set()
        self.run, self.captures = self._read()
        self._companions.clear()

    def tensor(self, capture: Capture) -> torch.Tensor:
        """The payload, [N, ...] in its dtype, over mapped memory; do not write to it.

        Raises TraceError for a capture of another trace.
        """
        shard, name, _ = self._payload(capture)
        return self._shard(shard).tensor(name)

    def __reduce__(self) -> tuple[type[DiskTrace], tuple[Path]]:
        # What crosses a process border is where the trace lies; the other side maps it for itself.
        return DiskTrace, (self.folder,)

    def check_payload(self, capture: Capture) -> None:
        """Raise TraceError when the payload's bytes do not give the CRC-32 that the manifest says."""
        shard, name, crc = self._payload(capture)
        self._check_crc(f"{self.folder / shard} ({capture.name})", name, crc, self._shard(shard).crc(name))

    def payload_bytes(self, capture: Capture) -> int:
        """Size of the payload in bytes."""
        shard, name, _ = self._payload(capture)
        entry = self._shard(shard).entry(name)
        return entry.end - entry.start

    def shard_names(self) -> tuple[str, ...]:
        """The shards that the manifest names, in order."""
        return tuple(sorted({shard for shard, _, _ in self._payloads.values()}))

    def select(self, *, stage: str | None = None, layer: Any = ANY, phase: str | None = None) -> list[Capture]:
        return select(self.captures, stage=stage, layer=layer, phase=phase)

    def __len__(self) -> int:
        return len(self.captures)

    def __repr__(self) -> str:
        return describe(f"DiskTrace {self.folder} ", self.run, self.captures, complete=self.complete)

    def _payload(self, capture: Capture) -> tuple[str, str, int]:
        try:
            return self._payloads[capture.number]
        except KeyError:
            raise TraceError(
                place=str(self.folder),
                expected=f"a capture among the {len(self.captures)} of this trace",
                found=f"number {capture.number}",
                next_step="Pass a capture from this trace's own `captures`.",
            ) from None

    def _read(self) -> tuple[Run, tuple[Capture, ...]]:
        path = self.folder / MANIFEST
        run: Run | None = None
        captures: list[Capture] = []
        for place, line in read_lines(path):
            if run is None:
                if line is not TORN:
                    run = parse_header(line, place)
                continue
            if self.complete:
                raise TraceError(
                    place=place,
                    expected="nothing after the end line",
                    found=f"a line of kind {line.get('kind')!r}",
                    next_step="Two writers may have shared the folder: capture again into a folder of its own.",
                )
            if line.get("kind") == "capture":
                captures.append(self._read_capture(line, place, run=run, last=captures[-1].number if captures else -1))
            elif line.get("kind") == "end":
                self._check_end(line, place, captures)
                self.complete = True
            elif line is TORN:
                self.torn = True
            # A line of another kind is a later minor addition: chained like the rest, and of no concern here.
        if run is None:
            raise TraceError(
                place=str(path),
                expected="a header line",
                found="none that is whole",
                next_step="The writer was killed before it wrote anything: capture again.",
            )
        return run, tuple(captures)

    def _read_capture(self, line: Mapping[str, Any], place: str, *, run: Run, last: int) -> Capture:
        fields = parse_capture(line, place, run=run)
        shard, tensor, crc = fields.pop("shard"), fields.pop("tensor"), fields.pop("crc")
        entry = self._shard(shard).entry(tensor)
        said = (fields["dtype"], fields["shape"])
        found = (dtype_name(entry.dtype), entry.shape)
        if said != found or fields["number"] <= last:
            raise TraceError(
                place=place,
                expected=f"a number above {last}, and dtype and shape {found} as in {shard}",
                found=f"number {fields['number']}, {said}",
                next_step="The manifest does not belong to these shards, or lists a capture twice: capture again.",
            )

        def fetch(name: str, expected: int) -> torch.Tensor:
            key = (shard, name)
            if key not in self._companions:
                self._check_crc(place, name, expected, self._shard(shard).crc(name))
                self._companions[key] = self._shard(shard).tensor(name)
            return self._companions[key]

        rows, row = decode(line.get("rows"), count=fields["shape"][0], place=place, fetch=fetch)
        if len(rows) and int(rows.request.max()) >= len(run.requests):
            raise TraceError(
                place=f"{place}, rows.request",
                expected=f"numbers below {len(run.requests)}, the run's requests",
                found=str(int(rows.request.max())),
                next_step="The writer numbered its requests otherwise than its header; see docs/trace-format.md.",
            )
        if (shard, tensor) in self._named:
            raise TraceError(
                place=place,
                expected="a payload of its own",
                found=f"tensor {tensor!r} of {shard}, which another capture has",
                next_step="A capture is listed twice: capture again.",
            )
        self._named.add((shard, tensor))
        self._payloads[fields["number"]] = (shard, tensor, crc)
        return Capture(**{**fields, "rows": rows, "geometry": restore_geometry(fields["geometry"], row)})

    def _check_end(self, line: Mapping[str, Any], place: str, captures: list[Capture]) -> None:
        said = (line.get("captures"), line.get("shards"))
        found = (len(captures), len({shard for shard, _, _ in self._payloads.values()}))
        if said != found:
            raise TraceError(
                place=place,
                expected=f"{said[0]} captures in {said[1]} shards",
                found=f"{found[0]} in {found[1]}",
                next_step="Lines of the manifest are missing: capture again.",
            )

    @staticmethod
    def _check_crc(place: str, name: str, expected: int, found: int) -> None:
        if expected != found:
            raise TraceError(
                place=f"{place}, tensor {name!r}",
                expected=f"payload CRC-32 {expected}",
                found=str(found),
                next_step="The payload was altered after it was written: capture again or restore it from a copy.",
            )

    def _shard(self, name: str) -> Shard:
        if name in self._shards:
            self._shards.move_to_end(name)
            return self._shards[name]
        shard = self._shards[name] = Shard(self.folder / name)
        while len(self._shards) > OPEN_SHARDS:
            # Tensors handed out keep their mapping alive by themselves.
            self._shards.popitem(last=False)
        return shard


def open_trace(folder: str | Path) -> DiskTrace:
    """Open the trace in `folder` lazily.

    Raises TraceError for a folder without a manifest, an unknown version, a broken chain, a line that is not as
    specified, or a shard whose header lies. Payload bytes are not read; `verify_trace` does that.
    """
    return DiskTrace(Path(folder))
