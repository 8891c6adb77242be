"""Is each row off by a factor of its own? A per-token factor is missing: a gate, a renormalization, a row scale.

A quantized activation has a scale for each 128 of a row's inputs: rows that are read with other rows' scales have a
factor for each of these blocks, and are no multiples of the oracle's.
"""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import ROW_RATIO
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, collinear, factor, factor_gain, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import squared_norm
from parity.fingerprint.weight import projections
from parity.metrics import COLUMN_BLOCK
from parity.records import Slice

SAMPLE = 64
"""Rows of each projection that stand for all of them where inputs are asked block by block."""

CARRIES = 0.01
"""Rows with less than this of a mean row's error are right and have no factor to speak of."""


@reads_values
def detect_row_factor(field: ErrorField) -> Fingerprint | None:
    """Find factors that differ from row to row in most rows that carry the error: one a row, or, where the weight is
    known (given, or solved), one for each 128 inputs of a row. score: the share of the error that they explain. Silent
    where factors that all rows share leave as little, and below FITTED columns or rows."""
    found = (_by_row(field), _by_input_block(field))
    return max((one for one in found if one is not None), key=lambda one: one.score, default=None)


def _by_row(field: ErrorField) -> Fingerprint | None:
    yy, dy, dd = field.sums.rows
    if field.width < FITTED or field.rows < 2:
        return None
    gain = factor_gain(dy, yy)
    hit = (dd > 0) & ((dd - gain) * field.width / (field.width - 1) < (1 - LEAST_SHARE) * dd)
    hit &= collinear(yy, dy, dd)
    carrying = dd > CARRIES * dd.mean()
    if hit.sum() < FITTED or 2 * (hit & carrying).sum() < carrying.sum():
        return None
    score = float(gain[hit].sum() / dd.sum())
    one = factor_gain(dy[hit].sum(keepdims=True), yy[hit].sum(keepdims=True))[0] / dd.sum()
    total = dd[hit].sum() / dd.sum()
    # The rows' own factors leave less than half of what the common one does, each fitted number made up for.
    if (total - score) * field.width / (field.width - 1) >= (1 - LEAST_SHARE) * (total - one):
        return None
    own = factor(dy, yy)[hit]
    low, median, high = np.quantile(own, (0.05, 0.5, 0.95))
    numbers = {
        "rows": int(hit.sum()),
        "factor_5": float(low),
        "factor_median": float(median),
        "factor_95": float(high),
        "explained_by_one_factor": float(one),
    }
    sentence = (
        f"{hit.sum()} of {field.rows} rows are multiples of the oracle's, each by a factor of its own ({low:.3g} to "
        f"{high:.3g}, median {median:.3g}); together these explain {percent(score)} of the error, one common factor "
        f"{percent(float(one))}."
    )
    return Fingerprint(ROW_RATIO, score, numbers, sentence, Slice())


def _by_input_block(field: ErrorField) -> Fingerprint | None:
    """Factors of each row's blocks of inputs, by least squares on the products of these blocks.

    As for one factor a row, they must explain most of the row's error and of the row itself: of a row that is another
    one altogether, factors of 0 explain half of the error.
    """
    energy, gained, shared, blocks = 0.0, 0.0, 0.0, 0
    hits = carrying = 0
    least = CARRIES * field.sums.dd.sum() / field.rows
    for projection in projections(field):
        sample = projection.fewer(SAMPLE)
        weight, x, d = sample.weight, field.x[sample.rows].double(), field.d[sample.rows].double()
        parts = [slice(at, at + COLUMN_BLOCK) for at in range(0, weight.shape[1], COLUMN_BLOCK)]
        blocks = len(parts)
        if blocks < 2 or d.shape[1] < FITTED * blocks:
            return None
        basis = torch.stack([sample.input[:, part] @ weight[:, part].T for part in parts], 1)  # [rows, blocks, columns]
        gram, wanted = (basis @ basis.mT).double(), (basis.double() @ d[..., None])
        error, by_row = d.square().sum(1), _gain(gram, wanted)
        rest = (error - by_row) * d.shape[1] / (d.shape[1] - blocks)
        wrong = error > least
        hit = wrong & (rest < (1 - LEAST_SHARE) * torch.minimum(error, x.square().sum(1)))
        hits, carrying = hits + int(hit.sum()), carrying + int(wrong.sum())
        size = squared_norm(field.d[projection.rows]) / max(float(error.sum()), 1e-30)
        energy += size * float(error.sum())
        gained += size * float(by_row[hit].sum())
        shared += size * float(_gain(gram[hit].sum(0, keepdim=True), wanted[hit].sum(0, keepdim=True)).sum())
    # Factors that all rows share are a weight's; what is left of them must be the rows' own.
    if not energy > 0 or hits < FITTED or 2 * hits < carrying or shared >= LEAST_SHARE * gained:
        return None
    score = gained / energy
    numbers = {"blocks_of_inputs": blocks, "explained_by_shared_factors": shared / energy}
    sentence = (
        f"Each row has a factor of its own for each of {blocks} blocks of {COLUMN_BLOCK} inputs: {percent(score)} of "
        f"the error, factors that all rows share {percent(shared / energy)}. Look at the scales of its quantized input."
    )
    return Fingerprint(ROW_RATIO, score, numbers, sentence, Slice())


def _gain(gram: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """[n], energy that the best factors of each take from the error. gram: [n, B, B], wanted: [n, B, 1]."""
    ridge = 1e-7 * gram.diagonal(dim1=1, dim2=2).sum(-1) + 1e-300  # fp32 products leave 6e-8 of it as noise
    solved = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype), wanted)
    return (solved * wanted).sum((1, 2))
