"""What is in a trace on disk? Opens the manifest, checks it, and maps payloads when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parity.display import Displayed
from parity.errors import TraceError
from parity.records import Capture, Run
from parity.trace.journal import MANIFEST, TORN, read_lines
from parity.trace.manifest import parse_capture, parse_header, parse_step, restore_geometry
from parity.trace.rowdata import RowReader, check_crc
from parity.trace.shard import Shard, dtype_name
from parity.trace.trace import ANY, describe, select

# Each mapping holds a file descriptor on Python 3.11; a thousand decode steps are a thousand shards.
OPEN_SHARDS = 64


@dataclass(frozen=True)
class Stored:
    """Where a payload lies: shard file, name of the tensor in it, CRC-32 and size in bytes."""

    shard: str
    tensor: str
    crc: int
    bytes: int


class DiskTrace(Displayed):
    """A trace on disk. Manifest and row metadata are in memory, payloads are mapped on access.

    `complete` is False when the manifest has no `end` line: the run failed or was killed, and what is listed is what
    was safely written before that. `torn` is True when the last line was cut off in the middle. `steps` are those that
    began, as (phase, step, chunk); empty when the writer did not say.
    `flaws`: with `salvage`, a TraceError for each capture that cannot be read and for the line at which reading
    stopped; without it the first of them is raised.
    """

    def __init__(self, folder: Path, *, salvage: bool = False) -> None:
        self.folder = folder
        self.complete = False
        self.torn = False
        self.flaws: list[TraceError] = []
        self._salvage = salvage
        self._run: Run | None = None
        self._captures: list[Capture] = []
        self._steps: list[tuple[str, int, int]] = []
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._stored: dict[int, Stored] = {}
        self._named: set[tuple[str, str]] = set()
        self._rows = RowReader(self._shard)
        try:
            self._read()
        except TraceError as error:
            if not salvage or self._run is None:
                raise
            self.flaws.append(error)
            self.complete = False
        self.run = self._header()
        self.captures = tuple(self._captures)
        self.steps = tuple(self._steps)
        self._rows = RowReader(self._shard)  # lets go of arrays that no capture holds
        self._named.clear()

    def tensor(self, capture: Capture) -> torch.Tensor:
        """The payload, [N, ...] in its dtype, over mapped memory; do not write to it.

        Raises TraceError for a capture of another trace, or a shard that was removed or cut since.
        """
        stored = self.stored(capture)
        return self._shard(stored.shard).tensor(stored.tensor)

    def __reduce__(self) -> tuple[type[DiskTrace], tuple[Path]]:
        # What crosses a process border is where the trace lies; the other side maps it for itself.
        return DiskTrace, (self.folder,)

    def check_payload(self, capture: Capture) -> None:
        """Raise TraceError when the payload's bytes do not give the CRC-32 that the manifest says."""
        stored = self.stored(capture)
        found = self._shard(stored.shard).crc(stored.tensor)
        check_crc(f"{self.folder / stored.shard} ({capture.name})", stored.tensor, stored.crc, found)

    def stored(self, capture: Capture) -> Stored:
        """Where the payload of a capture lies; TraceError for a capture of another trace."""
        try:
            return self._stored[capture.number]
        except KeyError:
            raise TraceError(
                place=str(self.folder),
                expected=f"a capture among the {len(self.captures)} of this trace",
                found=f"number {capture.number}",
                next_step="Pass a capture from this trace's own `captures`.",
            ) from None

    def shard_names(self) -> tuple[str, ...]:
        """The shards that the manifest names, in order."""
        return tuple(sorted({stored.shard for stored in self._stored.values()}))

    def select(self, *, stage: str | None = None, layer: Any = ANY, phase: str | None = None) -> list[Capture]:
        return select(self.captures, stage=stage, layer=layer, phase=phase)

    def __len__(self) -> int:
        return len(self.captures)

    def __repr__(self) -> str:
        return describe(f"DiskTrace {self.folder} ", self.run, self.captures, complete=self.complete)

    def _header(self) -> Run:
        if self._run is None:
            raise TraceError(
                place=str(self.folder / MANIFEST),
                expected="a header line",
                found="none that is whole",
                next_step="The writer was killed before it wrote anything: capture again.",
            )
        return self._run

    def _read(self) -> None:
        for place, line in read_lines(self.folder / MANIFEST):
            if self.complete:
                raise TraceError(
                    place=place,
                    expected="nothing after the end line",
                    found=f"a line of kind {line.get('kind')!r}",
                    next_step="Two writers may have shared the folder: capture again into a folder of its own.",
                )
            kind = line.get("kind")
            if line is TORN:
                self.torn = True
            elif self._run is None:
                self._run = parse_header(line, place)
            elif kind == "capture":
                try:
                    self._read_capture(line, place, self._run)
                except TraceError as error:
                    if not self._salvage:
                        raise
                    self.flaws.append(error)
            elif kind == "step":
                self._steps.append(parse_step(line, place))
            elif kind == "end":
                if not self.flaws:
                    self._check_end(line, place)
                self.complete = True
            elif kind == "header" or not isinstance(kind, str):
                raise TraceError(
                    place=place,
                    expected="a line that says its kind, and one header",
                    found=f"kind {kind!r}"[:80],
                    next_step="The manifest was put together from pieces: capture again.",
                )
            # A line of another kind is a later minor addition: chained like the rest, and of no concern here.
        self._header()

    def _read_capture(self, line: Mapping[str, Any], place: str, run: Run) -> None:
        fields = parse_capture(line, place, run=run)
        shard, tensor, crc = fields.pop("shard"), fields.pop("tensor"), fields.pop("crc")
        entry = self._shard(shard).entry(tensor)
        last = self._captures[-1].number if self._captures else -1
        said = (fields["dtype"], fields["shape"])
        found = (dtype_name(entry.dtype), entry.shape)
        if said != found or fields["number"] <= last:
            raise TraceError(
                place=place,
                expected=f"a number above {last}, and dtype and shape {found} as in {shard}",
                found=f"number {fields['number']}, {said}",
                next_step="The manifest does not belong to these shards, or lists a capture twice: capture again.",
            )
        rows, row = self._rows.read(line.get("rows"), shard=shard, count=fields["shape"][0], place=place)
        _check_rows(rows, fields, run, place)
        if (shard, tensor) in self._named:
            raise TraceError(
                place=place,
                expected="a payload of its own",
                found=f"tensor {tensor!r} of {shard}, which another capture has",
                next_step="A capture is listed twice: capture again.",
            )
        self._named.add((shard, tensor))
        self._stored[fields["number"]] = Stored(shard, tensor, crc, entry.end - entry.start)
        geometry = restore_geometry(fields["geometry"], row)
        self._captures.append(Capture(**{**fields, "rows": rows, "geometry": geometry}))

    def _check_end(self, line: Mapping[str, Any], place: str) -> None:
        said = (line.get("captures"), line.get("shards"))
        found = (len(self._captures), len(self.shard_names()))
        if said != found or any(isinstance(count, bool) for count in said):
            raise TraceError(
                place=place,
                expected=f"{said[0]!r:.20} captures in {said[1]!r:.20} shards",
                found=f"{found[0]} in {found[1]}",
                next_step="Lines of the manifest are missing: capture again.",
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


def _check_rows(rows: Any, fields: Mapping[str, Any], run: Run, place: str) -> None:
    if len(rows) and int(rows.request.max()) >= len(run.requests):
        raise TraceError(
            place=f"{place}, rows.request",
            expected=f"numbers below {len(run.requests)}, the run's requests",
            found=str(int(rows.request.max())),
            next_step="The writer numbered its requests otherwise than its header; see docs/trace-format.md.",
        )
    expert_rows = fields["axes"][0] == "R"
    if (rows.slot is not None) != expert_rows or (rows.expert is not None) != expert_rows:
        raise TraceError(
            place=f"{place}, rows",
            expected="slot and expert of each row" if expert_rows else "token rows, without slot and expert",
            found="rows without them" if expert_rows else "rows with them",
            next_step="See docs/trace-format.md, section Rows.",
        )


def open_trace(folder: str | Path) -> DiskTrace:
    """Open the trace in `folder` lazily.

    Raises TraceError for a folder without a manifest, an unknown version, a broken chain, a line that is not as
    specified, or a shard whose header lies. Payload bytes are not read; `verify_trace` does that.
    """
    return DiskTrace(Path(folder))
