"""In which blocks of positions is a site compared, so that a trace of any size takes the memory of one of them?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.compare.sites import SitePair, TracePair
from parity.records import Capture
from parity.trace import Trace
from parity.trace.shard import BY_NAME

BLOCK_ROWS = 1 << 16
"""Rows of a block: some 1,000 bytes each are held while it is labelled, measured and judged."""

BLOCK_BYTES = 1 << 25
"""Most bytes of one side's rows in a block: rows of several captures, or in another order, are copied."""


def position_blocks(pair: TracePair, layer: int | None, stage: str) -> list[tuple[int, int]]:
    """Ranges of positions that cover both sides' rows; empty when one block would do, as for most traces."""
    sides = [trace.select(stage=stage, layer=layer) for trace in (pair.oracle, pair.sut)]
    rows = max(sum(len(c.rows.position) for c in side) for side in sides)
    size = max(sum(len(c.rows.position) * _row_bytes(c) for c in side) for side in sides)
    if rows <= BLOCK_ROWS and (size <= BLOCK_BYTES or max(map(len, sides)) <= 1):
        return []
    captures = [c for side in sides for c in side if len(c.rows.position)]
    first = min(int(c.rows.position.min()) for c in captures)
    last = max(int(c.rows.position.max()) for c in captures)
    a_position = max(1, -(-rows // (last - first + 1)))
    most = min(BLOCK_ROWS, BLOCK_BYTES // max(1, *(_row_bytes(c) for c in captures)))
    step = max(1, most // a_position)
    return [(at, at + step) for at in range(first, last + 1, step)]


def site_blocks(pair: TracePair, layer: int | None, stage: str) -> Iterator[SitePair]:
    """The paired rows of a site, block by block; without parts where a block has no position in common."""
    for between in position_blocks(pair, layer, stage):
        parts, unpaired, axes = [], 0, ()
        for number in range(len(pair.requests)):
            a, b = pair.aligned(layer, stage, number, between)
            if a is None or b is None:
                unpaired += sum(len(one.position) for one in (a, b) if one is not None)
                continue
            axes = b.axes
            part, alone = pair.part(number, a, b)
            unpaired += alone
            if part is not None:
                parts.append(part)
        yield SitePair(parts, axes, unpaired)


def layouts(trace: Trace, layer: int | None, stage: str) -> set[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    """(axes, dtype, shape of a row) of the captures of a site that hold rows."""
    found = trace.select(stage=stage, layer=layer)
    return {(c.axes, c.dtype, tuple(c.shape[1:])) for c in found if len(c.rows.position)}


def _row_bytes(capture: Capture) -> int:
    return int(np.prod(capture.shape[1:], dtype=np.int64)) * BY_NAME[capture.dtype].itemsize
