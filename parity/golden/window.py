"""Which rows of a trace does a golden keep? The last positions of each request, of every site alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import GoldenError
from parity.records import Capture
from parity.trace import MemoryTrace, Trace

Starts = tuple[int | None, ...]
"""By request: the first position that is kept; None where the trace has no row of it. What comes later is kept too: a
run that went on for longer than the golden's must show."""


def last_positions(trace: Trace, count: int) -> MemoryTrace:
    """The trace with only the last `count` positions of each request, decode steps included.

    The last, since error accumulates over positions and what a launch does not cover is at the end of its rows; in one
    piece, since rows meet by a position without gaps. Every site keeps the same tokens, so that their routing is known.
    Raises GoldenError for a count below 1, and for a site of which nothing would be kept.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise GoldenError(
            place="positions", expected="a number of positions, at least 1", found=repr(count), next_step="State it."
        )
    ends = [0] * len(trace.run.requests)
    for capture in trace.captures:
        for request in range(len(ends)):
            mine = capture.rows.position[capture.rows.request == request]
            ends[request] = max(ends[request], int(mine.max()) + 1 if len(mine) else 0)
    return cut_trace(trace, tuple(max(end - count, 0) if end else None for end in ends))


def starts_of(trace: Trace) -> Starts:
    """The first position of each request in a trace."""
    found: list[int | None] = [None] * len(trace.run.requests)
    for capture in trace.captures:
        for request, known in enumerate(found):
            mine = capture.rows.position[capture.rows.request == request]
            if len(mine):
                found[request] = int(mine.min()) if known is None else min(int(mine.min()), known)
    return tuple(found)


def cut_trace(trace: Trace, starts: Starts) -> MemoryTrace:
    """Only the rows from those positions on. Raises GoldenError for a site of which that leaves nothing."""
    captures: list[Capture] = []
    tensors: dict[int, torch.Tensor] = {}
    for capture in trace.captures:
        mask = _kept(capture, starts)
        if not mask.any():
            continue
        index = torch.from_numpy(np.flatnonzero(mask))
        tensors[capture.number] = trace.tensor(capture).cpu()[index]
        shape = (int(mask.sum()), *capture.shape[1:])
        # A kernel's own numbering of rows and its launch speak of all rows: they do not hold for some of them.
        captures.append(replace(capture, rows=capture.rows.take(mask), shape=shape, geometry={}, launch={}))
    left = {capture.name for capture in captures}
    for capture in trace.captures:
        if capture.name not in left and len(capture.rows):
            raise GoldenError(
                place=f"positions of {capture.name}",
                expected="rows among the last positions of a request",
                found=f"positions {capture.rows.position.min()} to {capture.rows.position.max()} only",
                next_step="Keep more positions, or capture this site at the last tokens too.",
            )
    return MemoryTrace(trace.run, tuple(captures), tensors, complete=trace.complete)


def _kept(capture: Capture, starts: Starts) -> NDArray[np.bool_]:
    mask = np.ones(len(capture.rows), bool)
    for request, first in enumerate(starts):
        if first is not None:
            mask &= (capture.rows.request != request) | (capture.rows.position >= first)
    return mask
