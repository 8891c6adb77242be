"""Do rows of an embedding come from other places of its table? Every row of the table is compared with the SUT's."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import WRONG_INPUT
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_explained, wrong_rows
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import squared_norm
from parity.records import Slice

SAMPLE = 64
"""Wrong rows that are looked up; their share of what all wrong rows have of the error stands for it."""

PART = 4096
"""Rows of the table compared at once."""


@reads_values
def detect_table_row(field: ErrorField) -> Fingerprint | None:
    """Find wrong rows of a lookup that are other rows of its table. score: the share of the error explained.

    Needs the ids [T] among the inputs, and the table as `weight` [V, D] in `related`.
    """
    table = field.related.get("weight")
    ids = [t for t in field.inputs.values() if not t.is_floating_point() and t.shape == (field.rows,)]
    if table is None or len(ids) != 1 or table.ndim != 2 or table.shape[1] != field.width:
        return None
    wrong = np.flatnonzero(wrong_rows(field))
    if not len(wrong):
        return None
    at = torch.from_numpy(wrong[np.unique(np.linspace(0, len(wrong) - 1, SAMPLE).round().astype(int))])
    x = field.x[at]
    found, left = _nearest(x, table)
    hit = left <= (1 - LEAST_SHARE) * x.square().sum(1)
    errors = field.d[at].square().sum(1)
    gain = float(torch.where(hit, errors - left, torch.zeros_like(errors)).sum() / errors.sum().clamp(min=1e-30))
    score = share_explained(field, field.energy - gain * squared_norm(field.d[torch.from_numpy(wrong)]))
    if score < LEAST_SHARE:
        return None
    offsets = (found - ids[0][at].cpu())[hit]
    one = int(offsets[0]) if bool((offsets == offsets[0]).all()) else None
    numbers = {"rows": len(wrong), "looked_up": len(at), "offset": one, "lowest_id": int(ids[0][at].min())}
    where = f"the row {one:+d} from its id's" if one is not None else "another row than its id's"
    sentence = f"{len(wrong)} of {field.rows} rows hold {where} of the table: {percent(score)} of the error."
    positions = field.row_position[wrong]
    return Fingerprint(
        WRONG_INPUT, score, numbers, sentence, Slice(positions=(int(positions.min()), int(positions.max()) + 1))
    )


def _nearest(x: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of x [n, D] the nearest one of table [V, D]: (its number [n], the squared distance [n])."""
    best, at = torch.full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.long)
    for start in range(0, len(table), PART):
        part = table[start : start + PART].to("cpu", torch.float32)
        distance = x.square().sum(1, keepdim=True) - 2 * x @ part.T + part.square().sum(1)
        near, number = distance.min(1)
        better = near < best
        best, at = torch.where(better, near, best), torch.where(better, number + start, at)
    return at, best.clamp(min=0)
