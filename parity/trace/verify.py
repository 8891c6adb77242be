"""Is a trace on disk whole? Reads every byte of it and lists what is there and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parity.records import site_name
from parity.trace.disk import DiskTrace, open_trace
from parity.trace.manifest import SHARD_NAME


@dataclass(frozen=True)
class Listing:
    """What a verified trace holds.

    complete: the manifest has its end line. torn: its last line was cut off and does not count.
    captures, tensor_bytes: how many, and the size of their payloads.
    shards: shard files that the manifest names. orphans: shard files that it does not name; their captures were never
    listed and do not count. sites: captures by (layer, stage) name, in order of first capture.
    missing: declared sites without a single capture.
    """

    folder: Path
    complete: bool
    torn: bool
    captures: int
    tensor_bytes: int
    shards: tuple[str, ...]
    orphans: tuple[str, ...]
    sites: dict[str, int]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.folder}: {'complete' if self.complete else 'INCOMPLETE, the run did not reach its end'}",
            f"  {self.captures} captures of {len(self.sites)} sites in {len(self.shards)} shards, "
            f"{self.tensor_bytes / 1e6:.1f} MB; every payload's CRC-32 is right",
        ]
        if self.torn:
            lines.append("  the manifest's last line was cut off and does not count")
        if self.missing:
            lines.append(f"  {len(self.missing)} declared sites without a capture: " + ", ".join(self.missing[:12]))
        if self.orphans:
            lines.append("  shards without a manifest line, not counted: " + ", ".join(self.orphans))
        return "\n".join(lines)


def verify_trace(folder: str | Path) -> Listing:
    """Check every byte of a trace: manifest, shard headers, row metadata, and the CRC-32 of each payload.

    An unfinished trace is no error: the listing says so, and what is missing. Raises TraceError for damage.
    """
    trace: DiskTrace = open_trace(folder)
    sites: dict[str, int] = {}
    size = 0
    for capture in trace.captures:
        trace.check_payload(capture)
        sites[capture.name] = sites.get(capture.name, 0) + 1
        size += trace.payload_bytes(capture)
    named = trace.shard_names()
    present = {path.name for path in trace.folder.iterdir() if SHARD_NAME.fullmatch(path.name)}
    declared = [site_name(layer, stage) for layer, stage in trace.run.declared]
    return Listing(
        folder=trace.folder,
        complete=trace.complete,
        torn=trace.torn,
        captures=len(trace.captures),
        tensor_bytes=size,
        shards=named,
        orphans=tuple(sorted(present - set(named))),
        sites=sites,
        missing=tuple(name for name in declared if name not in sites),
    )
