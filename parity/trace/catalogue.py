"""Which captures does a trace hold, and how large are they? One row a capture; no payload is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.trace.disk import DiskTrace, open_trace
from parity.trace.trace import ANY


@dataclass(frozen=True)
class ListedCapture:
    """One capture of a trace on disk.

    name: `L02.moe.gate`. rows: how many; requests: of how many requests; first_position, last_position: the range of
    their absolute positions, None when there are no rows. bytes: size of the payload; shard: the file that holds it.
    """

    number: int
    name: str
    phase: str
    step: int
    chunk: int
    dtype: str
    shape: tuple[int, ...]
    rows: int
    requests: int
    first_position: int | None
    last_position: int | None
    bytes: int
    shard: str


def list_captures(
    trace: str | Path | DiskTrace, *, stage: str | None = None, layer: object = ANY, phase: str | None = None
) -> tuple[ListedCapture, ...]:
    """The captures of a trace in order; stage, layer and phase narrow them as in `Trace.select`.

    trace: a folder, or a trace that is open. Raises TraceError as `open_trace` does.
    """
    opened = trace if isinstance(trace, DiskTrace) else open_trace(trace)
    found = []
    for capture in opened.select(stage=stage, layer=layer, phase=phase):
        position, stored = capture.rows.position, opened.stored(capture)
        found.append(
            ListedCapture(
                number=capture.number,
                name=capture.name,
                phase=capture.phase,
                step=capture.step,
                chunk=capture.chunk,
                dtype=capture.dtype,
                shape=capture.shape,
                rows=len(position),
                requests=len(np.unique(capture.rows.request)),
                first_position=int(position.min()) if len(position) else None,
                last_position=int(position.max()) if len(position) else None,
                bytes=stored.bytes,
                shard=stored.shard,
            )
        )
    return tuple(found)
