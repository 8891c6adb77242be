"""Do columns hold another column's values, or single ones nothing of their own? Rows of a weight in another place."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import COLUMN_SEGMENT, COLUMNS_PERMUTED
from parity.fingerprint.columns_moved import columns_moved
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, UNRELATED, listed, percent, reads_values, share_explained
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.subset import PART_WINS
from parity.fingerprint.sums import squared_distance, squared_norm
from parity.records import Slice

FEW = 0.25
"""Largest share of the columns that counts as some of them."""

LEAST_WIDTH = 8
"""Columns of which two are a quarter (FEW). Below 2 * FITTED columns, as a router has, only values that are another
column's count: among so few the median of the right ones says little."""

CONTRAST = 25.0
"""Error energy of a wrong column, relative to its size, over that of the right ones' median: a factor of 5 in the
error itself, as for a range of columns."""

WIDEST = 1024
"""Columns among which each one's source is looked for: every pair is tried."""

TALLEST = 256
"""Rows by which the source of a column is found; the error explained is that of all rows."""


@reads_values
def detect_columns_exchanged(field: ErrorField) -> Fingerprint | None:
    """Find columns, of all rows or of one expert's, that are permuted, or a few that carry the error.

    score: the share explained where their values are other columns of the oracle's; else half of what they carry.

    Columns side by side are a segment and are said by it (detect_columns_wrong).
    """
    groups: list[tuple[int | None, np.ndarray]] = [(None, np.arange(field.rows))]
    experts = field.row_expert
    if experts is not None and field.energy > 0:
        lost = field.sums.dd.sum(1)
        by = np.bincount(experts[experts >= 0], weights=lost[experts >= 0])
        main = int(by.argmax())
        if by[main] >= LEAST_SHARE * lost.sum():
            groups.append((main, np.flatnonzero(experts == main)))
    found = [
        f for expert, rows in groups for f in (_columns(field, expert, rows), _reordered(field, expert, rows)) if f
    ]
    best = max(found, key=lambda f: f.score, default=None)
    if best is not None and best.cause == COLUMNS_PERMUTED:
        return best
    # Blocks that moved say more than which columns are wrong, and explain as much.
    moved = [f for expert, rows in groups if (f := columns_moved(field, expert, rows))]
    block = max(moved, key=lambda f: f.score, default=None)
    return block if block and (best is None or block.score > best.score - PART_WINS) else best


def _columns(field: ErrorField, expert: int | None, rows: np.ndarray) -> Fingerprint | None:
    if len(rows) < FITTED or field.width < LEAST_WIDTH:
        return None
    if len(rows) == field.rows:
        yy, _, dd = field.sums.columns
    else:
        yy, dd = (t[torch.from_numpy(rows)].square().sum(0).double().numpy() for t in (field.y, field.d))
    error = np.divide(dd, yy, out=np.zeros_like(dd), where=yy > 0)
    hot = np.flatnonzero(error > CONTRAST * max(float(np.median(error)), 1e-12))
    if not 0 < len(hot) <= FEW * field.width or dd[hot].sum() < LEAST_SHARE * field.energy:
        return None
    at = torch.from_numpy(rows)
    x, y = field.x[at][:, hot], field.y[at]
    unit = torch.nn.functional.normalize(y, dim=0)
    nearest = (torch.nn.functional.normalize(x, dim=0).T @ unit).argmax(1)
    left = (x - y[:, nearest]).square().sum(0).double().numpy()
    moved = (left < (1 - LEAST_SHARE) * dd[hot]) & (nearest.numpy() != hot)
    if field.width < 2 * FITTED and not moved.all():
        return None
    rest = field.energy - dd[hot].sum() + np.where(moved, left, dd[hot]).sum()
    score = max(share_explained(field, float(rest)) if moved.any() else 0.0, UNRELATED * dd[hot].sum() / field.energy)
    source = {str(c): int(s) for c, s, m in zip(hot.tolist(), nearest.tolist(), moved.tolist(), strict=True) if m}
    numbers = {"columns": hot.tolist(), "of": field.width, "source_of_column": source, "expert": expert}
    of = "" if expert is None else f" of expert {expert}"
    holds = f" hold other columns ({', '.join(f'{a}<-{b}' for a, b in list(source.items())[:8])})" if source else ""
    sentence = (
        f"Column{'s' if len(hot) > 1 else ''} {listed(hot.tolist())}{of}{holds or ' are wrong'}, the others are right: "
        f"{percent(float(dd[hot].sum()) / field.energy)} of the error."
    )
    where = Slice(
        experts=None if expert is None else (expert,),
        columns=(int(hot[0]), int(hot[-1]) + 1),
    )
    return Fingerprint(COLUMN_SEGMENT, float(min(score, 1.0)), numbers, sentence, where)


def _reordered(field: ErrorField, expert: int | None, rows: np.ndarray) -> Fingerprint | None:
    """More than a few columns in each other's place: each one's source by its direction, all of them different."""
    if len(rows) < FITTED or not 2 * FITTED <= field.width <= WIDEST:
        return None
    at = torch.from_numpy(rows)
    some = at[torch.linspace(0, len(at) - 1, min(TALLEST, len(at))).long()]
    unit = [torch.nn.functional.normalize(t[some], dim=0) for t in (field.x, field.y)]
    source = (unit[0].T @ unit[1]).argmax(1).numpy()
    moved = source != np.arange(field.width)
    if moved.sum() <= FEW * field.width or len(np.unique(source)) < (1 - FEW) * field.width:
        return None
    x, y = field.x[at], field.y[at]
    rest = field.energy - squared_norm(field.d[at]) + squared_distance(x, y[:, source])
    score = share_explained(field, rest)
    if score < LEAST_SHARE:
        return None
    steps = (source - np.arange(field.width)) % field.width
    shift = int(np.bincount(steps).argmax())
    shifted = bool((steps == shift).mean() > 1 - FEW)
    numbers = {"moved": int(moved.sum()), "of": field.width, "shift": shift if shifted else None, "expert": expert}
    how = f"hold the column {shift} further on" if shifted else "hold other columns, each another"
    of = "" if expert is None else f" of expert {expert}"
    sentence = f"{int(moved.sum())} of {field.width} columns{of} {how}: {percent(score)} of the error."
    where = Slice(experts=None if expert is None else (expert,))
    return Fingerprint(COLUMNS_PERMUTED, score, numbers, sentence, where)
