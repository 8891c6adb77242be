"""Where do NaN and infinity begin?"""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import NONFINITE
from parity.fingerprint.evidence import listed, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice


@reads_values
def detect_nonfinite(field: ErrorField) -> Fingerprint | None:
    """Find elements that are not finite where the oracle's are. score: the share of error and lost energy in these
    elements; they count as if the SUT were 0 there, and at least 1/1000 so that none goes unsaid."""
    bad = field.nonfinite
    if bad is None or not bool(bad.any()):
        return None
    sut = field.sut.detach().to("cpu", torch.float32).reshape(field.rows, field.width)
    lost = float(field.d[bad].square().sum().double())
    score = max(min(lost / field.energy, 1.0) if field.energy > 0 else 1.0, 1e-3)
    rows = np.flatnonzero(bad.any(1).numpy())
    columns = np.flatnonzero(bad.any(0).numpy())
    positions = field.row_position[rows]
    nan = int(torch.isnan(sut[bad]).sum())
    heads = sorted(set((columns // (field.width // field.heads)).tolist())) if field.heads else None
    numbers = {
        "elements": int(bad.sum()),
        "nan": nan,
        "infinite": int(bad.sum()) - nan,
        "rows": len(rows),
        "first_position": int(positions.min()),
        "first_column": int(columns.min()),
        "heads": heads,
        "largest_finite": float(field.x.abs().max()),
    }
    sentence = (
        f"{int(bad.sum())} elements ({nan} NaN) in {len(rows)} rows are not finite, from position "
        f"{positions.min()} on, "
        f"column {columns.min()} first"
        + (f", heads {listed(heads)}" if heads else "")
        + f"; the largest finite value is {numbers['largest_finite']:.4g}."
    )
    where = Slice(
        heads=tuple(heads) if heads and len(heads) < field.heads else None,
        positions=(int(positions.min()), int(positions.max()) + 1),
    )
    return Fingerprint(NONFINITE, score, numbers, sentence, where)
