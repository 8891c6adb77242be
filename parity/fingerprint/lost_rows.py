"""Which rows were never computed? Rows that hold nothing, one constant, or values that are not the oracle's."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import ROWS_STALE, ROWS_UNWRITTEN
from parity.fingerprint.evidence import UNRELATED, percent, reads_values, right_rows, wrong_rows
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice


@reads_values
def detect_lost_rows(field: ErrorField) -> Fingerprint | None:
    """Find rows that are wrong throughout while others are right.

    Unwritten: zero or one constant where the oracle is not; these may be all rows. Stale: of another direction
    than the oracle's, while at least half of the rows are right. score: the share of the error in these rows, half of
    it for stale ones.
    """
    wrong = wrong_rows(field)
    if field.nonfinite is not None:
        wrong &= ~field.nonfinite.any(1).numpy()
    if not wrong.any() or field.width < 2:
        return None
    sut = field.sut.reshape(field.rows, field.width)
    at = np.flatnonzero(wrong)
    values = sut[torch.from_numpy(at).to(sut.device)].float().cpu()
    same = (values.amax(1) == values.amin(1)).numpy()
    constant, stale = at[same], at[~same]
    lost = field.sums.dd.sum(1)
    by = {ROWS_UNWRITTEN: float(lost[constant].sum()), ROWS_STALE: UNRELATED * float(lost[stale].sum())}
    if 2 * right_rows(field).sum() < field.rows:
        by[ROWS_STALE] = 0.0
    cause = max(by, key=lambda name: by[name])
    if by[cause] <= 0:
        return None
    rows = constant if cause == ROWS_UNWRITTEN else stale
    score = min(by[cause] / field.energy, 1.0)
    zero = int((values[torch.from_numpy(same)] == 0).all(1).sum()) if len(constant) else 0
    positions = field.row_position[rows]
    experts = None if field.row_expert is None else np.unique(field.row_expert[rows])
    numbers = {
        "rows": len(rows),
        "share": len(rows) / field.rows,
        "zero_rows": zero,
        "first_position": int(positions.min()),
        "last_position": int(positions.max()),
        "experts": None if experts is None else experts.tolist(),
        "norm_ratio": _norm_ratio(field, torch.from_numpy(rows)),
    }
    holds = "hold one constant value" if cause == ROWS_UNWRITTEN else "hold values that belong elsewhere"
    holds = "are zero" if zero and zero == len(rows) else holds
    sentence = (
        f"{len(rows)} of {field.rows} rows {holds} (positions {positions.min()} to {positions.max()}); they make "
        f"{percent(float(lost[rows].sum()) / field.energy)} of the error."
    )
    tokens = np.unique(positions)
    where = Slice(
        experts=tuple(experts.tolist()) if experts is not None and len(experts) == 1 else None,
        rows=tuple(tokens.tolist()) if experts is None and len(tokens) <= 64 else None,
        positions=(int(tokens.min()), int(tokens.max()) + 1),
    )
    return Fingerprint(cause, score, numbers, sentence, where)


def _norm_ratio(field: ErrorField, rows: torch.Tensor) -> float:
    """Norm of the SUT's rows over the oracle's."""
    return float((field.x[rows].square().sum() / field.y[rows].square().sum().clamp(min=1e-30)).sqrt())
