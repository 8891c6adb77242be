"""Does a projection leave out part of its contraction? Every cut of its input is tried, from either end."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from parity.fingerprint.causes import HALF_OF_K
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.weight import Projection, projections
from parity.records import Slice

STEP = 8
"""Columns between the cuts tried: vector loads and tensor cores take at least 8."""

SAMPLE = 64
"""Rows of each projection on which the cut is found: its residual is one sum over all of them, known to 1/8."""

OUTPUTS = 512
"""Outputs, evenly spread, on which the cut is found: every output is a sum over the same columns of the input."""


@reads_values
def detect_short_contraction(field: ErrorField) -> Fingerprint | None:
    """Find a projection that uses only its input's columns up to a cut, or only those from it on. score: the share of
    the error explained over SAMPLE rows of each projection; experts that it does not explain keep their error."""
    known = projections(field)
    inputs = known[0].input.shape[1] if known else 0
    if inputs < 2 * STEP or any(p.input.shape[1] != inputs for p in known):
        return None
    cuts = list(range(STEP, inputs, STEP))
    before, left = 0.0, np.zeros((2, len(cuts)))
    for projection in known:
        error, rests = _rests(field, projection, cuts)
        before += error
        left += np.minimum(rests, error)
    if before <= 0:
        return None
    side, at = np.unravel_index(int(left.argmin()), left.shape)
    # A cut that leaves nothing of a small tensor explains nothing.
    size = sum(float(field.x[p.rows].square().sum()) for p in known)
    score = float(1 - left[side, at] / before) if left[side, at] <= (1 - LEAST_SHARE) * size else 0.0
    # The sample must stand for the field: outside the projections an error stays.
    score *= min(sum(float(field.d[p.rows].square().sum()) for p in known) / field.energy, 1.0)
    if score < LEAST_SHARE:
        return None
    cut = cuts[int(at)]
    used = (0, cut) if side == 0 else (cut, inputs)
    numbers = {"used_columns": list(used), "of": inputs, "used_share_of_input": (used[1] - used[0]) / inputs}
    sentence = (
        f"The projection over input columns {used[0]} to {used[1] - 1} of {inputs} alone gives the SUT's tensor: "
        f"{percent(score)} of the error."
    )
    return Fingerprint(HALF_OF_K, score, numbers, sentence, Slice())


def _rests(field: ErrorField, projection: Projection, cuts: list[int]) -> tuple[float, np.ndarray]:
    """(error energy of the sampled rows scaled to all, [2, cuts] what the columns before or from each cut leave)."""
    count = len(projection.rows)
    pick = torch.linspace(0, count - 1, min(SAMPLE, count)).round().long()
    x, d, weight = projection.input[pick], field.d[projection.rows[pick]], projection.weight
    step = -(-len(weight) // OUTPUTS)
    d, weight = d[:, ::step], weight[::step]
    scale = count / len(pick) * field.width / len(weight)
    # Squares by expansion: one running product and three dot products a cut, and no tensor of all cuts.
    whole, head = (x @ weight.T).flatten(), torch.zeros(len(pick), len(weight))
    flat, wanted = head.view(-1), d.flatten()
    both = wanted + whole
    rests = np.empty((2, len(cuts)))
    for number, (a, b) in enumerate(pairwise([0, *cuts])):
        head.addmm_(x[:, a:b], weight[:, a:b].T)
        size, error, kept = float(flat.dot(flat)), float(flat.dot(wanted)), float(flat.dot(both))
        rests[:, number] = float(both.dot(both)) - 2 * kept + size, float(wanted.dot(wanted)) + 2 * error + size
    return scale * float(d.square().sum()), scale * rests.clip(0.0)
