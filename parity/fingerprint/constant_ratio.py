"""Is a tensor, a head, an expert, a column block or a quantization block off by one constant factor?

A missing, doubled or inverted scale leaves the direction and multiplies the values. Slices are tried from the coarsest
kind to the finest; the coarsest that explains as much as any is the answer, since a factor of the tensor is one of
every expert too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.causes import CONSTANT_RATIO
from parity.fingerprint.evidence import (
    FITTED,
    LEAST_SHARE,
    Array,
    collinear,
    factor_gain,
    listed,
    percent,
    reads_values,
)
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

ONE_FACTOR = 0.95
"""Slices share a factor when one number explains this much of what each slice's own would: a relative spread of the
factors' excess (f - 1) of more than about sqrt(1/0.95 - 1) = 0.23 is a spread, not a constant."""


CARRIES, ROUNDED = 0.01, 2.0**-18
"""Slices with less than this of a mean element's error, and errors below BF16's last bit, are right: an order of sums
leaves a factor of its own in each, 1 + 1e-7, that is nobody's scale."""

NOTHING = 1e-3
"""Factor below which columns are not scaled: nothing was written into them."""


@dataclass(frozen=True)
class Scaled:
    """The slices of one kind that are off by a factor: kind, (row group, cell group) numbers, the common factor, the
    share of the field's energy that it explains, and each slice's own factor."""

    kind: str
    slices: NDArray[np.int64]
    factor: float
    score: float
    own: Array
    own_score: float


@reads_values
def detect_constant_ratio(field: ErrorField) -> Fingerprint | None:
    """Find the coarsest kind of slice in which the SUT is a constant multiple of the oracle.

    Kinds: tensor, head, expert, columns (128 of them, one scale block), block (128 columns of one expert), column (a
    single one). Silent when the slices' factors differ, and where columns hold nothing at all. score:
    share of the error's energy explained by the one factor in the slices found.
    """
    kinds = [scaled for kind in slice_kinds(field) if (scaled := scaled_slices(field, kind)) is not None]
    kinds = [scaled for scaled in kinds if scaled.score > 0 and scaled.score >= ONE_FACTOR * scaled.own_score]
    if not kinds:
        return None
    best = max(scaled.score for scaled in kinds)
    found = next(scaled for scaled in kinds if scaled.score >= best - 0.02)
    if _emptied(found) or _varies(field, found):
        return None
    where, words = _place(field, found)
    numbers = {
        "kind": found.kind,
        "slices": found.slices.tolist(),
        "factor": found.factor,
        "factors": {str(tuple(s) if found.kind == "block" else s[-1]): float(f) for s, f in _own(found)},
    }
    sentence = (
        f"{words} is {found.factor:.4g} times the oracle: one factor explains {percent(found.score)} of the error."
    )
    return Fingerprint(CONSTANT_RATIO, min(found.score, 1.0), numbers, sentence, where)


def _emptied(found: Scaled) -> bool:
    """Whether columns hold nothing: that is no scale (parity.fingerprint.columns_wrong)."""
    return found.kind in ("columns", "column") and abs(found.factor) < NOTHING


def _varies(field: ErrorField, found: Scaled) -> bool:
    """Whether factors by row, or by column, explain most of what the one factor leaves in its slices: then it is the
    mean of a spread. Of noise n fitted factors take n/elements only, which is made up for."""
    rows = np.ones(field.rows, bool)
    columns = np.ones(field.width, bool)
    used, cells = found.slices[:, 0], found.slices[:, 1]
    if found.kind in ("expert", "block") and field.row_expert is not None:
        rows = np.isin(field.row_expert, used)
    if found.kind in ("head", "columns", "block"):
        labels = field.sums.head if found.kind == "head" else field.sums.block
        assert labels is not None
        columns = np.repeat(np.isin(labels, cells), field.sums.sizes)
    if found.kind == "column":
        columns = np.isin(np.arange(field.width), cells)
    y, x = field.y, field.x
    if not rows.all():
        y, x = (t[torch.from_numpy(rows)] for t in (y, x))
    if not columns.all():
        y, x = (t[:, torch.from_numpy(columns)] for t in (y, x))
    rest = x - found.factor * y
    left = float(rest.square().sum())
    # What rounds to the dtype is no spread: BF16 leaves 2^-9 of each value.
    if left <= 4 * ROUNDED * float(x.square().sum()) or min(y.shape) < FITTED:
        return False
    for axis in (1, 0):
        taken = (rest * y).sum(axis).square() / y.square().sum(axis).clamp(min=1e-30)
        after = (left - float(taken.sum())) * y.shape[axis] / (y.shape[axis] - 1)
        if after < (1 - LEAST_SHARE) * left:
            return True
    return False


def _own(found: Scaled) -> list[tuple[list[int], float]]:
    return list(zip(found.slices.tolist(), found.own.tolist(), strict=True))


def slice_kinds(field: ErrorField) -> list[str]:
    """Kinds of slices that the field has, coarsest first."""
    blocks, experts = int(field.sums.block.max(initial=-1)) + 1, field.row_expert is not None
    kinds = ["tensor"]
    kinds += ["head"] if field.heads > 1 else []
    kinds += ["expert"] if experts else []
    kinds += ["columns"] if blocks > 1 else []
    kinds += ["block"] if experts and blocks > 1 else []
    # Of a few slots one is all that a factor by slot can change (parity.fingerprint.channel_factor).
    return [*kinds, "column"] if field.width >= FITTED else kinds


def slice_sums(field: ErrorField, kind: str) -> tuple[Array, Array, Array, Array]:
    """(yy, dy, dd, elements) of each slice of a kind, [row groups, cell groups]."""
    sums, experts = field.sums, field.row_expert
    if kind == "column":
        yy, dy, dd = (one[None] for one in sums.columns)
        return yy, dy, dd, np.full((1, field.width), float(field.rows))
    rows = experts if kind in ("expert", "block") else None
    cells = {"head": sums.head, "columns": sums.block, "block": sums.block}.get(kind)
    yy, dy, dd = sums.by(rows, cells)
    of_rows = np.array([field.rows]) if rows is None else np.bincount(rows[rows >= 0], minlength=len(yy))
    sizes = sums.sizes
    of_cells = np.array([sizes.sum()]) if cells is None else np.bincount(cells, weights=sizes)
    return yy, dy, dd, (of_rows[:, None] * of_cells[None, :]).astype(np.float64)


def scaled_slices(field: ErrorField, kind: str) -> Scaled | None:
    """Slices of one kind that a factor explains by more than half, fitted numbers counted; None without any."""
    yy, dy, dd, elements = slice_sums(field, kind)
    gain = factor_gain(dy, yy)
    # One number fitted to n elements explains 1/n of pure noise: adjusted as in a regression's R^2.
    rest = np.divide(dd - gain, np.maximum(elements - 1, 1)) * elements
    hit = (elements >= FITTED) & (dd > 0) & (rest < (1 - LEAST_SHARE) * dd) & collinear(yy, dy, dd)
    hit &= (dd * elements.sum() > CARRIES * elements * dd.sum()) | (dd > ROUNDED * yy)
    if not hit.any():
        return None
    energy = field.energy
    excess = dy[hit].sum() / yy[hit].sum()
    common = 2 * excess * dy[hit].sum() - excess**2 * yy[hit].sum()
    own = 1 + dy[hit] / yy[hit]
    return Scaled(
        kind, np.argwhere(hit), float(1 + excess), float(common / energy), own, float(gain[hit].sum() / energy)
    )


def _place(field: ErrorField, found: Scaled) -> tuple[Slice, str]:
    rows, cells = sorted(set(found.slices[:, 0].tolist())), sorted(set(found.slices[:, 1].tolist()))
    first, last = int(128 * cells[0]), min(128 * (cells[-1] + 1), field.width)
    if found.kind == "tensor":
        return Slice(), "The whole tensor"
    if found.kind == "head":
        return Slice(heads=tuple(cells)), f"Head{'s' if len(cells) > 1 else ''} {listed(cells)}"
    if found.kind == "expert":
        return Slice(experts=tuple(rows)), f"Expert{'s' if len(rows) > 1 else ''} {listed(rows)}"
    if found.kind == "columns":
        return Slice(columns=(first, last)), f"Columns {first} to {last - 1}"
    if found.kind == "column" and field.axes[-1] == "E":
        return Slice(experts=tuple(cells)), f"The column of expert{'s' if len(cells) > 1 else ''} {listed(cells)}"
    if found.kind == "column":
        whole = cells[-1] - cells[0] == len(cells) - 1
        where = Slice(columns=(cells[0], cells[-1] + 1)) if whole else Slice()
        return where, f"Column{'s' if len(cells) > 1 else ''} {listed(cells)}"
    return Slice(experts=tuple(rows), columns=(first, last)), f"Columns {first} to {last - 1} of experts {listed(rows)}"
