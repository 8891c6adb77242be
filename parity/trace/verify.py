"""Is a trace on disk whole? Reads every byte of it and lists what is intact, what is missing and what is damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parity.errors import TraceError
from parity.records import Capture, site_name
from parity.trace.disk import DiskTrace
from parity.trace.journal import MANIFEST
from parity.trace.lock import is_held
from parity.trace.manifest import SHARD_NAME

SHOWN = 12


@dataclass(frozen=True)
class Listing:
    """What a verified trace holds.

    complete: the manifest has its end line. torn: its last line was cut off and does not count.
    being_written: a living process holds the trace; what is missing may still come.
    captures, tensor_bytes: how many are intact, and the size of their payloads.
    shards: shard files that the manifest names. orphans: shard files that it does not name; their captures were never
    listed and do not count. sites: intact captures by (layer, stage) name, in order of first capture.
    missing: declared sites without a single capture.
    running: the step that was running when an unfinished trace stopped, as `decode step 3 chunk 0`; None for a
    complete trace. missing_in_step: declared sites that this step had not captured.
    damaged: what is wrong, one sentence a capture or line; empty when every byte is as it was written.
    """

    folder: Path
    complete: bool
    torn: bool
    being_written: bool
    captures: int
    tensor_bytes: int
    shards: tuple[str, ...]
    orphans: tuple[str, ...]
    sites: dict[str, int]
    missing: tuple[str, ...]
    running: str | None
    missing_in_step: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        state = "complete" if self.complete else "INCOMPLETE, the run did not reach its end"
        if self.being_written:
            state = "INCOMPLETE, a process is still writing it"
        if self.damaged:
            state = "DAMAGED"
        lines = [
            f"{self.folder}: {state}",
            f"  {self.captures} captures of {len(self.sites)} sites in {len(self.shards)} shards, "
            f"{self.tensor_bytes / 1e6:.1f} MB; the CRC-32 of each payload is right",
        ]
        lines += [f"  damaged: {what}" for what in self.damaged]
        if self.torn:
            lines.append("  the manifest's last line was cut off and does not count")
        if self.missing:
            lines.append(f"  {len(self.missing)} declared sites without a capture: {_some(self.missing)}")
        if self.running is not None:
            lines.append(
                f"  it stopped in {self.running}, without {len(self.missing_in_step)} declared sites"
                + (f": {_some(self.missing_in_step)}" if self.missing_in_step else "")
            )
        if self.orphans:
            lines.append("  shards without a manifest line, not counted: " + _some(self.orphans))
        return "\n".join(lines)


def verify_trace(folder: str | Path, *, strict: bool = True) -> Listing:
    """Check every byte of a trace: manifest, shard headers, row metadata, and the CRC-32 of each payload.

    An unfinished trace is no error: the listing says so, and what is missing. Payloads are mapped, one at a time.
    Raises TraceError for damage. With `strict=False` damage is listed instead, and what is intact is counted; only a
    folder without a readable header still raises.
    """
    # Asked first: a trace that is finished while it is read is whole, not held.
    held = is_held(Path(folder) / MANIFEST)
    trace = DiskTrace(Path(folder), salvage=not strict)
    flaws = [str(flaw) for flaw in trace.flaws]
    intact: list[Capture] = []
    for capture in trace.captures:
        try:
            trace.check_payload(capture)
        except TraceError as error:
            if strict:
                raise
            flaws.append(str(error))
        else:
            intact.append(capture)
    sites: dict[str, int] = {}
    for capture in intact:
        sites[capture.name] = sites.get(capture.name, 0) + 1
    named = trace.shard_names()
    present = {path.name for path in trace.folder.iterdir() if SHARD_NAME.fullmatch(path.name)}
    declared = tuple(dict.fromkeys(site_name(layer, stage) for layer, stage in trace.run.declared))
    step = None if trace.complete else _last_step(trace)
    here = {capture.name for capture in intact if (capture.phase, capture.step, capture.chunk) == step}
    return Listing(
        folder=trace.folder,
        complete=trace.complete,
        torn=trace.torn,
        being_written=held and not trace.complete,
        captures=len(intact),
        tensor_bytes=sum(trace.stored(capture).bytes for capture in intact),
        shards=named,
        orphans=tuple(sorted(present - set(named))),
        sites=sites,
        missing=tuple(name for name in declared if name not in sites),
        running=None if step is None else f"{step[0]} step {step[1]} chunk {step[2]}",
        missing_in_step=() if step is None else tuple(name for name in declared if name not in here),
        damaged=tuple(flaws),
    )


def _last_step(trace: DiskTrace) -> tuple[str, int, int] | None:
    """The last step that began; by its captures where the writer did not say."""
    if trace.steps:
        return trace.steps[-1]
    if not trace.captures:
        return None
    last = trace.captures[-1]
    return last.phase, last.step, last.chunk


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
