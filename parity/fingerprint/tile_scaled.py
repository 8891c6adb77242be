"""Is one rectangle of rows and columns off by a common factor? A tile accumulated twice, or under a wrong scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parity.fingerprint.causes import PHASE_ONLY, TILE_AMPLIFIED
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, collinear, listed, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import STRIP
from parity.records import Slice

FAR = 9.0
"""Error energy of a cell over the median cell's. Of 8 normal errors (chi-square, 8 degrees) 9 medians, 66 variances,
come by chance in fewer than one of 10^10 cells; a factor shows beyond three times the noise."""

ONE_TILE = 64
"""Rows of the tile of a grouped GEMM where the kernel does not tell."""

TYPICAL = 0.05
"""Energy of a row of the tile over its largest row's: rows of one tensor differ by less than a factor of 4 in size, and
a row where one rounding fell otherwise is flagged everywhere but carries next to nothing."""

INSIDE = 0.9
"""Share of the rectangle's rows, and of its strips, that must carry the factor."""


@reads_values
def detect_tile_scaled(field: ErrorField) -> Fingerprint | None:
    """Find a rectangle, rows of one expert or consecutive tokens by consecutive columns, multiplied by one factor.

    Silent when the rectangle holds all rows of the tensor, or of an expert of more than one tile: that is a constant
    ratio. Where it holds all rows of one phase and of no other, the cause is that phase's kernel, and no tile.
    score: the share of the error that the factor explains inside the rectangle.
    """
    rows, width = field.rows, field.width
    strips = -(-width // STRIP)
    if rows < 2 or width < FITTED:
        return None
    yy, dy, dd = (part.astype(np.float64) for part in field.sums.strips)
    per_row = dd.sum(1)
    hot = _hot_cells(yy, dd)
    base = 1 + dy[hot].sum() / max(yy[hot].sum(), 1e-30)
    flagged = _carry(yy, dy, base) & hot
    of_row = (flagged * dd).sum(1)
    lines = (of_row > 0) & (of_row >= TYPICAL * of_row.max())
    used = flagged[lines].mean(0) >= INSIDE if lines.any() else np.zeros(strips, bool)
    if not used.any():
        return None
    left, right = int(np.flatnonzero(used)[0]), int(np.flatnonzero(used)[-1]) + 1
    if used[left:right].mean() < INSIDE:
        return None
    whole = _carry(yy[:, left:right].sum(1), dy[:, left:right].sum(1), base) & (yy[:, left:right].sum(1) > 0)
    experts, number = field.row_expert, field.row_number
    order = field.row_position if number is None or (number < 0).any() else number
    # Each launch numbers an expert's rows anew; a tile lies in one of them.
    span = int(order.max(initial=0)) + 1
    order = order + field.row_launch * span if order is number else order
    if experts is not None:
        main = int(np.bincount(experts[whole & (experts >= 0)]).argmax()) if (whole & (experts >= 0)).any() else -1
        inside = experts == main
    else:
        main, inside = -1, np.ones(rows, bool)
    tile = _span(whole & inside, order, inside)
    # An expert that fits into one tile can be either: the constant ratio then stands first, this beside it.
    height = field.tile_m or ONE_TILE
    fits = experts is not None and inside.sum() <= height
    if tile is None or (
        tile.sum() >= INSIDE * inside.sum() and not fits and not _ends_at_a_tile(tile, order % span, inside, height)
    ):
        return None
    box_yy, box_dy = yy[tile][:, left:right].sum(), dy[tile][:, left:right].sum()
    ratio, score = float(1 + box_dy / box_yy), float(box_dy**2 / box_yy / per_row.sum())
    rest = dd[tile][:, left:right].sum() - box_dy**2 / box_yy
    box_dd = dd[tile][:, left:right].sum()
    if score <= 0 or rest > (1 - LEAST_SHARE) * box_dd:
        return None
    # Anything small beside y is "y times nearly nothing": the factor must explain the SUT's own values too.
    if not collinear(*(np.array([float(total)]) for total in (box_yy, box_dy, box_dd)))[0]:
        return None
    first, last = left * STRIP, min(right * STRIP, width)
    at = np.unique(order[tile] % span)
    numbers = {
        "factor": ratio,
        "expert": main if experts is not None else None,
        "rows": int(tile.sum()),
        "first_row": int(at[0]),
        "last_row": int(at[-1]),
        "columns": [first, last],
    }
    columns = None if (first, last) == (0, width) else (first, last)
    phase = _phase_of(field, tile)
    if phase is not None:
        sentence = (
            f"In {phase}, and there alone, columns {first} to {last - 1} are {ratio:.4g} times the oracle: "
            f"{percent(score)} of the error."
        )
        positions = field.row_position[tile]
        where = Slice(columns=columns, positions=(int(positions.min()), int(positions.max()) + 1))
        return Fingerprint(PHASE_ONLY, score, {**numbers, "phase": phase}, sentence, where)
    of = f" of expert {main}" if experts is not None else ""
    sentence = (
        f"Rows {at[0]} to {at[-1]}{of}, columns {first} to {last - 1}, are {ratio:.4g} times the oracle; rows "
        f"{listed(at.tolist(), 3)}: {percent(score)} of the error."
    )
    where = Slice(
        experts=(main,) if experts is not None else None,
        rows=tuple(at.tolist()),
        columns=columns,
    )
    return Fingerprint(TILE_AMPLIFIED, score, numbers, sentence, where)


def _ends_at_a_tile(tile: NDArray[np.bool_], number: NDArray[np.int64], inside: NDArray[np.bool_], height: int) -> bool:
    """Whether the rows are whole tiles, and some rows lie beyond: of an expert just past a tile they are nearly all."""
    first, last = int(number[tile].min()), int(number[tile].max())
    beyond = inside & ((number < first) | (number > last))
    return bool(beyond.any()) and first % height == 0 and (last + 1) % height == 0


def _phase_of(field: ErrorField, tile: NDArray[np.bool_]) -> str | None:
    """The phase whose rows these are, all of them and no others, of two; else None."""
    if field.phase is None or len(set(field.phase.tolist())) != 2:
        return None
    phases = np.repeat(field.phase, field.slots)
    return next((str(name) for name in set(phases.tolist()) if (tile == (phases == name)).all()), None)


def _carry(yy: NDArray[np.float64], dy: NDArray[np.float64], factor: float) -> NDArray[np.bool_]:
    """Where the error is nearer to (factor - 1) y than to none: the projection passes half of the way."""
    excess = factor - 1
    return excess * dy > 0.5 * excess**2 * yy


def _hot_cells(yy: NDArray[np.float64], dd: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cells far over the noise, which is the median cell's error against its row's size; where the tile is most of the
    field there is no such contrast, and the cells that carry half of the error stand for it."""
    size = np.maximum(yy.mean(1, keepdims=True), 1e-30)
    hot = dd > FAR * np.median(dd / size) * size
    if dd[hot].sum() > LEAST_SHARE / 10 * dd.sum():
        return hot
    order = np.sort(dd.ravel())[::-1]
    return dd >= order[int(np.searchsorted(np.cumsum(order), LEAST_SHARE * order.sum()))]


def _span(hit: NDArray[np.bool_], order: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The rows between the first and the last hit when most of them are hits; stray hits beyond a gap are let go."""
    at = np.sort(order[hit])
    if not len(at):
        return None
    low, high = np.quantile(at, (0.05, 0.95), method="nearest")
    present = np.unique(order[inside])
    hits = set(at.tolist())
    first, last = int(np.searchsorted(present, low)), int(np.searchsorted(present, high))
    while first > 0 and int(present[first - 1]) in hits:
        first -= 1
    while last + 1 < len(present) and int(present[last + 1]) in hits:
        last += 1
    span = inside & (order >= present[first]) & (order <= present[last])
    return span & hit if hit[span].mean() >= INSIDE else None
