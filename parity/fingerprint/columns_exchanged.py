"""Do single columns hold another column's values, or nothing of their own? Rows of a weight in each other's place."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import COLUMN_SEGMENT
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, UNRELATED, listed, percent, reads_values, share_explained
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

FEW = 0.25
"""Largest share of the columns that counts as some of them."""

LEAST_WIDTH = 8
"""Columns of which two are a quarter (FEW). Below 2 * FITTED columns, as a router has, only values that are another
column's count: among so few the median of the right ones says little."""

CONTRAST = 25.0
"""Error energy of a wrong column, relative to its size, over that of the right ones' median: a factor of 5 in the
error itself, as for a range of columns."""


@reads_values
def detect_columns_exchanged(field: ErrorField) -> Fingerprint | None:
    """Find a few columns, of all rows or of one expert's, that carry the error. score: the share explained where their
    values are other columns of the oracle's; else half of the share they carry.

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
    found = [f for expert, rows in groups if (f := _columns(field, expert, rows)) is not None]
    return max(found, key=lambda f: f.score, default=None)


def _columns(field: ErrorField, expert: int | None, rows: np.ndarray) -> Fingerprint | None:
    if len(rows) < FITTED or field.width < LEAST_WIDTH:
        return None
    at = torch.from_numpy(rows)
    y, d = field.y[at], field.d[at]
    yy, dd = (t.square().sum(0).double().numpy() for t in (y, d))
    error = np.divide(dd, yy, out=np.zeros_like(dd), where=yy > 0)
    hot = np.flatnonzero(error > CONTRAST * max(float(np.median(error)), 1e-12))
    if not 0 < len(hot) <= FEW * field.width or dd[hot].sum() < LEAST_SHARE * field.energy:
        return None
    x = field.x[at][:, hot]
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
