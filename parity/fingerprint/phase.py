"""Is one phase wrong and the other right? Prefill and decode run different kernels."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.causes import PHASE_ONLY
from parity.fingerprint.evidence import UNRELATED, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

CONTRAST = 5.0
"""Median relative error of the wrong phase over that of the other; one recipe's two kernels differ by less than 2."""


@reads_values
def detect_phase(field: ErrorField) -> Fingerprint | None:
    """Find that the tokens of one phase carry the error. score: half of the wrong phase's share of it."""
    if field.phase is None or len(set(field.phase.tolist())) != 2:
        return None
    phases = np.repeat(field.phase, field.slots)
    yy, _, dd = field.sums.rows
    error = np.sqrt(np.divide(dd, yy, out=np.zeros_like(dd), where=yy > 0))
    names = sorted(set(phases.tolist()), key=lambda name: -float(np.median(error[phases == name])))
    wrong, right = (float(np.median(error[phases == name])) for name in names)
    # Not the phase but single rows: then the other rows of the phase are right.
    if wrong < CONTRAST * max(right, 1e-12) or float(np.quantile(error[phases == names[0]], 0.1)) < right:
        return None
    share = float(dd[phases == names[0]].sum() / dd.sum())
    positions = field.row_position[phases == names[0]]
    numbers = {"phase": names[0], "error": wrong, "error_of_other_phase": right, "share": share}
    sentence = (
        f"The {names[0]} rows carry {percent(share)} of the error: median relative error {wrong:.2g} "
        f"against {right:.2g}."
    )
    where = Slice(positions=(int(positions.min()), int(positions.max()) + 1))
    return Fingerprint(PHASE_ONLY, UNRELATED * share, numbers, sentence, where)
