"""Do rows end where a grid dimension reaches the hardware's limit? A launch beyond it fails silently."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import LAUNCH_LIMIT
from parity.fingerprint.evidence import percent, reads_values, wrong_rows
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

LIMIT = 65535
"""Largest grid dimension y and z (CUDA C++ Programming Guide, technical specifications; x reaches 2^31 - 1)."""

WRAPS = 65536
"""Values of a 16-bit index: where one is kept in 16 bits it starts again here."""

TILES = (1, 8, 16, 32, 64, 128, 256)
"""Rows that one program of the grid may compute."""


@reads_values
def detect_launch_limit(field: ErrorField) -> Fingerprint | None:
    """Find rows that hold one value throughout from a multiple of the limit on, or in all of a tensor that needs a
    larger grid. score: the share of the error in these rows.

    A tensor of at most LIMIT rows says nothing: every tile height covers it.
    """
    if field.rows <= LIMIT or field.width < 2:
        return None
    wrong = wrong_rows(field)
    if not wrong.any():
        return None
    first = int(np.flatnonzero(wrong)[0])
    constant = (field.x.amax(1) == field.x.amin(1)).numpy()
    tile = next((t for t in TILES if first in (LIMIT * t, WRAPS * t)), 1 if first == 0 else None)
    lost = wrong & constant
    # A row of the oracle's may be zero too, and is not wrong then.
    if tile is None or lost[first:].sum() < 0.99 * wrong.sum() or (~wrong[first:]).mean() > 0.1:
        return None
    energy = field.sums.dd.sum(1)
    score = float(energy[lost].sum() / energy.sum())
    at = field.row_position[first:]
    numbers = {"first_row": first, "rows": field.rows, "limit": LIMIT, "tile": tile}
    where = "no row is computed" if first == 0 else f"rows from {first} on are not computed"
    sentence = (
        f"Of {field.rows} rows {where}: a grid of more than {LIMIT} programs in y or z, of {tile} rows each, fails or "
        f"wraps ({percent(score)} of the error)."
    )
    return Fingerprint(LAUNCH_LIMIT, score, numbers, sentence, Slice(positions=(int(at.min()), int(at.max()) + 1)))
