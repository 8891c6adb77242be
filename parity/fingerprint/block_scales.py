"""Are the scales of the weight's blocks misplaced? Factors by 128x128 block that no single factor explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.causes import BLOCK_SCALES
from parity.fingerprint.constant_ratio import ONE_FACTOR, scaled_slices, slice_kinds, slice_sums
from parity.fingerprint.evidence import LEAST_SHARE, factor_gain, percent, reads_values, share_explained
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import squared_norm
from parity.fingerprint.weight import Projection, projections
from parity.metrics import COLUMN_BLOCK
from parity.records import Slice

COARSER = 0.02
"""Share of the error that a coarser kind of slice may leave to a finer one."""

SAMPLE = 64
"""Rows of each projection that tell whether factors of blocks explain half of what they must: 64 rows of 128 columns
for each block's one factor."""

OFF = 0.02
"""Distance from 1 that makes a block's factor another one: noise of 0.03 of a row's norm moves a factor that is fitted
to 64 rows of 128 columns by 0.03 / sqrt(8192) = 3e-4."""

WORDS = {"expert": "experts", "columns": "blocks of 128 columns", "block": "blocks of 128 columns of an expert"}


@reads_values
def detect_block_scales(field: ErrorField) -> Fingerprint | None:
    """Find factors that differ from block to block of 128x128 weights.

    Where the weight is known (given, or solvable from input and output) the factor of each block follows by least
    squares from its partial product; else only the factor of each output block of each expert is seen, and what the
    blocks along the input do to it stays in the residual. score: the share of the error that the blocks' factors
    explain; silent where one factor explains as much.
    """
    inside = _by_weight(field)
    return inside if inside is not None else _by_output(field)


def _by_output(field: ErrorField) -> Fingerprint | None:
    wanted = ("expert", "columns", "block") if field.row_expert is not None else ("columns",)
    kinds = [scaled for kind in slice_kinds(field) if kind in wanted and (scaled := scaled_slices(field, kind))]
    best = max((scaled.own_score for scaled in kinds), default=0.0)
    # The coarsest kind that explains as much; two slices with two factors are no pattern yet.
    scaled = next((s for s in kinds if s.own_score >= best - COARSER and len(s.slices) > 2), None)
    if scaled is None or scaled.score >= ONE_FACTOR * scaled.own_score or scaled.own_score < LEAST_SHARE:
        return None
    one = _gain(field, "tensor")
    own = scaled.own
    numbers = {
        "kind": scaled.kind,
        "blocks": len(scaled.slices),
        "factor_min": float(own.min()),
        "factor_max": float(own.max()),
        "explained_by_one_factor": max(scaled.score, one),
        "left_inside_blocks": 1 - scaled.own_score,
        "from": "outputs",
    }
    sentence = (
        f"{len(own)} {WORDS[scaled.kind]} have factors of their own, {own.min():.3g} to {own.max():.3g}: "
        f"{percent(scaled.own_score)} of the error, one factor {percent(max(scaled.score, one))}."
    )
    return Fingerprint(BLOCK_SCALES, scaled.own_score, numbers, sentence, Slice())


def _gain(field: ErrorField, kind: str) -> float:
    if kind == "expert" and field.row_expert is None:
        return 0.0
    yy, dy, dd, _ = slice_sums(field, kind)
    return float(factor_gain(dy, yy).sum() / dd.sum())


def _by_weight(field: ErrorField) -> Fingerprint | None:
    known = projections(field)
    grid = _grid(known[0]) if known else (0, 0)
    if grid[0] * grid[1] < 3 or grid[1] < 2:
        return None
    few = [projection.fewer(SAMPLE) for projection in known]
    scale = [len(p.rows) / len(q.rows) for p, q in zip(known, few, strict=True)]
    error, size = (
        sum(by * squared_norm(t[q.rows]) for by, q in zip(scale, few, strict=True)) for t in (field.d, field.x)
    )
    after = sum(by * _fit(field, q)[0] for by, q in zip(scale, few, strict=True))
    if after > (1 - LEAST_SHARE / 2) * min(error, size):
        return None
    rest, factors = field.energy, []
    for projection in known:
        left, table = _fit(field, projection)
        rest += left - squared_norm(field.d[projection.rows])
        factors.append(table)
    score = share_explained(field, rest)
    own = np.stack(factors)
    one = max(_gain(field, kind) for kind in ("tensor", "expert", "columns"))
    by_output = _gain(field, "columns")
    if score < LEAST_SHARE or max(one, by_output) >= ONE_FACTOR * score:
        return None
    if _cut(own):
        return None
    numbers = {
        "factors": own.round(4).tolist() if own.size <= 64 else None,
        "factor_min": float(own.min()),
        "factor_max": float(own.max()),
        "explained_by_one_factor": one,
        "from": "weight blocks",
    }
    sentence = (
        f"Factors of the weight's 128x128 blocks ({grid[0]} by {grid[1]}, {own.min():.3g} to {own.max():.3g}) explain "
        f"{percent(score)} of the error, one factor by slice {percent(one)}: scales stand at other blocks than theirs."
    )
    return Fingerprint(BLOCK_SCALES, score, numbers, sentence, _place(field, known, own))


def _place(field: ErrorField, known: Sequence[Projection], own: np.ndarray) -> Slice:
    """Experts and output columns whose blocks have other factors than 1, where these are not all.

    own: [projections, output blocks, input blocks].
    """
    off: NDArray[np.bool_] = np.max(np.abs(own - 1), axis=2) > OFF
    rows: list[bool] = np.max(off, axis=1).tolist()
    columns = np.flatnonzero(np.max(off, axis=0))
    experts = [p.expert for p, wrong in zip(known, rows, strict=True) if wrong and p.expert is not None]
    together = len(columns) > 0 and columns[-1] - columns[0] == len(columns) - 1
    part = together and len(columns) < own.shape[1]
    edge = (int(columns[0]) * COLUMN_BLOCK, min(int(columns[-1] + 1) * COLUMN_BLOCK, field.width)) if part else None
    return Slice(experts=tuple(experts) if experts and not all(rows) else None, columns=edge)


def _cut(own: np.ndarray) -> bool:
    """Whether input blocks are merely left out: each block of a column of blocks alike, some at 1 and the others at 0
    or, where the cut lies inside one, between. own: [projections, output blocks, input blocks]."""
    by_input = own.reshape(-1, own.shape[-1])
    middle = np.median(by_input, axis=0)
    alike = bool((np.abs(by_input - middle) < 0.1).mean() > 0.9)
    outside = (np.abs(middle) < 0.05) | (np.abs(middle - 1) < 0.05)
    return alike and bool((middle < 0.95).any()) and bool(middle.max() < 1.05) and (~outside).sum() <= 1


def _grid(projection: Projection) -> tuple[int, int]:
    outputs, inputs = projection.weight.shape
    return -(-outputs // COLUMN_BLOCK), -(-inputs // COLUMN_BLOCK)


def _fit(field: ErrorField, projection: Projection) -> tuple[float, np.ndarray]:
    """(energy left by the best factor of every block, the factors [output blocks, input blocks])."""
    x, weight = projection.input, projection.weight
    d = field.d[projection.rows]
    out, across = _grid(projection)
    parts = [slice(j * COLUMN_BLOCK, (j + 1) * COLUMN_BLOCK) for j in range(max(out, across))]
    factors, left = np.ones((out, across)), 0.0
    for i in range(out):
        basis = torch.stack([(x[:, p] @ weight[parts[i], p].T).flatten() for p in parts[:across]])
        wanted = d[:, parts[i]].flatten()
        gram = (basis @ basis.T).double()
        gram.diagonal().add_(1e-7 * float(gram.diagonal().sum()) + 1e-300)  # fp32 products leave 6e-8 of it as noise
        excess = torch.linalg.solve(gram, (basis @ wanted).double())
        left += squared_norm(wanted - excess.float() @ basis)
        factors[i] = 1 + excess.numpy()
    return left, factors
