"""In which other order do the elements of a weight stand: transposed, its rows moved in blocks, its columns moved?

Told from marks alone: one number for each row and column, so that neither side's values leave its process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

MARKED = 16
"""Elements that a mark is made of, evenly spread over the row or column: 16 codes of E4M3 are some 80 bits."""

MOST = 1 << 18
"""Rows or columns that are marked; of a longer axis none are."""

TRANSPOSED = "transposed"
ROWS = "rows"
COLUMNS = "columns"


def mark_rows(values: torch.Tensor) -> bytes:
    """One int64 for each row of values [R, C] fp32, made of MARKED of its elements; empty of any other shape.

    Rows of a transposed matrix have the marks of its columns.
    """
    if values.ndim != 2 or not values.numel() or len(values) > MOST:
        return b""
    at = torch.linspace(0, values.shape[1] - 1, min(MARKED, values.shape[1])).long()
    bits = values[:, at].contiguous().view(torch.int32).to(torch.int64)
    # Odd factors of a linear congruence (Knuth, TAOCP 2, 3.3.4, table 1), modulo 2^64.
    factors = np.ones(len(at), np.uint64)
    for n in range(1, len(at)):
        factors[n] = (int(factors[n - 1]) * 6364136223846793005 + 1442695040888963408) % (1 << 64) | 1
    return (bits * torch.from_numpy(factors.view(np.int64))).sum(1).numpy().tobytes()


def tell_order(
    *, rows: bytes, columns: bytes, own_rows: bytes, own_columns: bytes
) -> tuple[str, tuple[int, ...] | None] | None:
    """What was moved and, of rows or columns, from where each came; None where it is none of these.

    rows, columns: marks of the tensor that is read; own_rows, own_columns: of the one that it should be.
    """
    if not rows or not own_rows:
        return None
    if rows == own_columns and columns == own_rows and rows != own_rows:
        return TRANSPOSED, None
    for name, marks, own in ((ROWS, rows, own_rows), (COLUMNS, columns, own_columns)):
        source = _source(np.frombuffer(marks, np.int64), np.frombuffer(own, np.int64))
        if source is not None:
            return name, source
    return None


def moved_blocks(source: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """(height of the blocks that were moved as they are, in which order these stand).

    The height is the largest that divides the length such that every block is a block of the source.
    """
    at = np.asarray(source)
    for height in (n for n in range(len(at) - 1, 0, -1) if len(at) % n == 0):
        blocks = at.reshape(-1, height)
        if (blocks[:, 0] % height == 0).all() and (blocks == blocks[:, :1] + np.arange(height)).all():
            return height, tuple((blocks[:, 0] // height).tolist())
    return 1, tuple(at.tolist())


def say_order(what: str, source: Sequence[int] | None) -> str:
    """The order in words."""
    if source is None:
        return "it is transposed"
    height, order = moved_blocks(source)
    named = f"its {what}" if height == 1 else f"its blocks of {height} {what}"
    some = ", ".join(map(str, order[:8])) + (", ..." if len(order) > 8 else "")
    return f"{named} stand in the order {some}"


def _source(marks: np.ndarray, own: np.ndarray) -> tuple[int, ...] | None:
    """For each mark its place among the own ones; None where they are not the same ones in another order."""
    if len(marks) != len(own) or np.array_equal(marks, own):
        return None
    here, there = np.argsort(marks, kind="stable"), np.argsort(own, kind="stable")
    if not np.array_equal(marks[here], own[there]):
        return None
    source = np.empty(len(marks), np.int64)
    source[here] = there
    return tuple(source.tolist())
