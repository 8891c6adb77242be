"""In which ranges of positions is a site compared, so that a trace of any size takes the memory of one of them?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.compare.routes import LOGITS, STAGE
from parity.records import Capture
from parity.trace import Trace
from parity.trace.shard import BY_NAME

BLOCK_ROWS = 1 << 16
"""Rows of a block: some 1,000 bytes each are held while it is labelled, measured and judged."""

BLOCK_BYTES = 1 << 25
"""Most bytes of one side's rows in a block: rows of several captures, or in another order, are copied."""

WIDEST_ROW = 1 << 25
"""Most elements of one row of a trace: its column blocks of 128 keep some 250 bytes each, besides its values."""


def position_blocks(sides: Sequence[Trace], layer: int | None, stage: str) -> list[tuple[int, int]]:
    """Ranges of positions that cover the rows of every side; empty when one block would do, as for most traces."""
    found = [trace.select(stage=stage, layer=layer) for trace in sides]
    rows = max(sum(len(c.rows.position) for c in side) for side in found)
    size = max(sum(len(c.rows.position) * _row_bytes(c) for c in side) for side in found)
    if rows <= BLOCK_ROWS and (size <= BLOCK_BYTES or max(map(len, found)) <= 1):
        return []
    captures = [c for side in found for c in side if len(c.rows.position)]
    first = min(int(c.rows.position.min()) for c in captures)
    last = max(int(c.rows.position.max()) for c in captures)
    a_position = max(1, -(-rows // (last - first + 1)))
    # A flip's margin is read off the router's logits, which are wider than the ids.
    scores = [c for trace in sides for c in trace.select(stage=LOGITS, layer=layer)] if stage == STAGE else []
    most = min(BLOCK_ROWS, BLOCK_BYTES // max(1, *(_row_bytes(c) for c in (*captures, *scores))))
    step = max(1, most // a_position)
    return [(at, at + step) for at in range(first, last + 1, step)]


def widest_row(sides: Sequence[Trace], layer: int | None, stage: str) -> int:
    """Elements of the longest row of a site, 0 where there is none."""
    captures = (c for trace in sides for c in trace.select(stage=stage, layer=layer))
    return max((int(np.prod(c.shape[1:], dtype=np.int64)) for c in captures), default=0)


def layouts(trace: Trace, layer: int | None, stage: str) -> set[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    """(axes, dtype, shape of a row) of the captures of a site that hold rows."""
    found = trace.select(stage=stage, layer=layer)
    return {(c.axes, c.dtype, tuple(c.shape[1:])) for c in found if len(c.rows.position)}


def _row_bytes(capture: Capture) -> int:
    return int(np.prod(capture.shape[1:], dtype=np.int64)) * BY_NAME[capture.dtype].itemsize
