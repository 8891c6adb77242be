"""Is only one range of columns wrong: a segment of the row, or the same part of every head?"""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import COLUMN_SEGMENT, HEAD_PART
from parity.fingerprint.evidence import UNRELATED, cosines, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import STRIP
from parity.records import Slice

CONTRAST = 5.0
"""Relative error inside the range over that outside: clean columns of one stage differ by less than 2."""

INSIDE = 0.9


@reads_values
def detect_columns_wrong(field: ErrorField) -> Fingerprint | None:
    """Find one range of columns, of the row or of every head alike, that carries the error while the rest is right.

    score: what the range's best factor explains of the error (0 says that the values are elsewhere), at least half of
    the range's share of it where the direction is lost too. Silent when all columns are off.
    """
    found = [f for f in (_range(field, per_head=True), _range(field, per_head=False)) if f is not None]
    return max(found, key=lambda f: f.score, default=None)


def _range(field: ErrorField, *, per_head: bool) -> Fingerprint | None:
    if per_head and field.heads < 2:
        return None
    heads = field.heads if per_head else 1
    width = field.width // heads
    strips = width // STRIP
    if strips < 2 or width % STRIP:
        return None
    yy, dy, dd = (a.reshape(heads, strips, STRIP).sum((0, 2)) for a in field.sums.columns)
    error = np.sqrt(np.divide(dd, yy, out=np.zeros_like(dd), where=yy > 0))
    # Below a hundredth of the worst strip all are right; which of them is the least wrong says nothing.
    error = np.maximum(error, 0.01 * error.max())
    order = np.sort(error)
    gap = int(np.argmax(order[1:] / np.maximum(order[:-1], 1e-12)))
    if order[gap + 1] < CONTRAST * max(order[gap], 1e-12):
        return None
    hit = error > order[gap]
    first, last = int(np.flatnonzero(hit)[0]), int(np.flatnonzero(hit)[-1])
    if hit[first : last + 1].mean() < INSIDE or hit.all():
        return None
    inside = slice(first, last + 1)
    lost = float(dd[inside].sum() / dd.sum())
    direction = float(
        cosines(yy[inside].sum(keepdims=True), dy[inside].sum(keepdims=True), dd[inside].sum(keepdims=True))[0]
    )
    ratio = float(np.sqrt(max((yy + 2 * dy + dd)[inside].sum(), 0.0) / max(yy[inside].sum(), 1e-30)))
    if per_head and not _in_every_head(field, first * STRIP, (last + 1) * STRIP):
        return None
    cause = HEAD_PART if per_head else COLUMN_SEGMENT
    left, right = first * STRIP, (last + 1) * STRIP
    numbers = {
        "columns": [left, right],
        "of": width,
        "error_inside": float(error[inside].mean()),
        "error_outside": float(error[~hit].mean()),
        "cosine_inside": direction,
        "norm_ratio_inside": ratio,
    }
    of = f"of every head (of {width})" if per_head else f"(of {width})"
    sentence = (
        f"Columns {left} to {right - 1} {of} carry {percent(lost)} of the error, relative error "
        f"{numbers['error_inside']:.2g} against {numbers['error_outside']:.2g} in the others; cosine "
        f"there {direction:.2f}."
    )
    where = Slice() if per_head else _place(field, left, right)
    explained = _content(field, heads, left, right) if float(dd[inside].sum()) > 0 else {}
    what = max(explained, key=lambda name: explained[name], default=None)
    if what is not None and explained[what] > UNRELATED:
        numbers["holds"] = what
        sentence = f"{sentence[:-1]}; they hold {what}."
        return Fingerprint(cause, lost * explained[what], numbers, sentence, where)
    return Fingerprint(cause, UNRELATED * lost, numbers, sentence, where)


def _place(field: ErrorField, left: int, right: int) -> Slice:
    """The range as heads where it is whole ones."""
    width = field.width // field.heads if field.heads else 0
    if width and left % width == 0 and right % width == 0:
        return Slice(heads=tuple(range(left // width, right // width)))
    return Slice(columns=(left, right))


def _content(field: ErrorField, heads: int, left: int, right: int) -> dict[str, float]:
    """Share of the error in the range that nothing, or a neighbour's values, would explain."""
    x, y = (t.view(field.rows, heads, -1)[..., left:right] for t in (field.x, field.y))
    total = float((x - y).square().sum())
    ways = {"zero": y * 0}
    if heads > 1:
        ways |= {"the next head's values": y.roll(-1, 1), "the previous head's values": y.roll(1, 1)}
    if field.rows > 2:
        ways |= {"the next row's values": y.roll(-1, 0), "the previous row's values": y.roll(1, 0)}
    size = float(x.square().sum())
    found = {}
    for name, value in ways.items():
        rest = float((x - value).square().sum())
        if name == "zero" or rest <= 0.5 * size:
            found[name] = 1 - rest / total
    return found


def _in_every_head(field: ErrorField, left: int, right: int) -> bool:
    """Whether the range is off in nearly every head, so that it is not one head's fault."""
    d, y = (t.view(field.rows, field.heads, -1)[..., left:right] for t in (field.d, field.y))
    error = (d.square().sum((0, 2)) / y.square().sum((0, 2)).clamp(min=1e-30)).sqrt()
    return bool((error > error.max() / CONTRAST).float().mean() >= INSIDE)
