"""In which rows does a prediction hold, and what do these rows have in common? All, a phase, a range, some experts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.evidence import FITTED, LEAST_SHARE, Array, share_explained
from parity.fingerprint.field import ErrorField
from parity.fingerprint.sums import row_distances
from parity.records import Slice

Rows = NDArray[np.bool_]

PART_WINS = 0.02
"""Share of the error by which a part of the rows must beat all of them: FP8's noise, 0.03 to 0.1 of a row's norm,
leaves up to 0.01 of its energy to either."""

CARRIES = 0.01
"""Rows with less than this of the error of one that carries it say nothing about where a fault is: FP8's noise."""


@dataclass(frozen=True)
class Held:
    """How much of the error a prediction explains, and the rows where it holds; None for all of them."""

    score: float
    rows: Rows | None = None


def rows_explained(field: ErrorField, predicted: torch.Tensor) -> Held:
    """Where predicting the SUT by another tensor explains its error. predicted: [rows, width] fp32.

    A row counts where the prediction leaves at most half of its error and of its own energy (LEAST_SHARE); the others
    keep their error. All rows are said unless some explain PART_WINS more. Below FITTED columns a row is too short to
    be chosen by its own error, and only all rows are tried.
    """
    return held(field, row_distances(field.x, predicted))


def held(field: ErrorField, left: Array) -> Held:
    """The same from what a prediction leaves of each row, [rows]."""
    whole = share_explained(field, float(left.sum()))
    yy, dy, dd = field.sums.rows
    if field.width < FITTED or not field.energy > 0:
        return Held(whole)
    own = np.maximum(yy + 2 * dy + dd, 0.0)
    hit = (left <= (1 - LEAST_SHARE) * np.minimum(dd, own)) & carrying_rows(field)
    part = float((dd - left)[hit].sum()) / field.energy
    if part <= whole + PART_WINS or hit.all():
        return Held(whole)
    return Held(min(part, 1.0), hit)


def carrying_rows(field: ErrorField) -> Rows:
    """[rows], rows with CARRIES of the error of the row that a unit of the error lies in: few that carry all of it do
    not drown in the many that carry none."""
    dd = field.sums.rows[2]
    total = float(dd.sum())
    typical = float((dd * (dd / total)).sum()) if total > 0 else 0.0
    return (dd > 0) & (dd >= CARRIES * typical)


def place_of_rows(field: ErrorField, hit: Rows | None) -> tuple[Slice, str]:
    """Positions where the rows are a run of them, experts where they are within some; and the rows in words."""
    if hit is None or not hit.any():
        return Slice(), "all rows"
    words = f"{hit.sum()} of {field.rows} rows"
    positions = np.unique(field.row_position[hit])
    inside = (field.row_position >= positions[0]) & (field.row_position <= positions[-1])
    run = len(positions) == positions[-1] - positions[0] + 1 and not inside.all()
    span = (int(positions[0]), int(positions[-1]) + 1) if run else None
    words += f" (positions {span[0]} to {span[1] - 1})" if span else ""
    experts: tuple[int, ...] | None = None
    if field.row_expert is not None:
        # All rows of a range of tokens need no experts; which ones these few tokens were sent to is chance.
        mine = set(field.row_expert[hit].tolist())
        told = span is not None and hit[inside].all()
        experts = None if told or mine == set(field.row_expert.tolist()) else tuple(sorted(mine))
        words += f" of expert{'s' if len(mine) > 1 else ''} {', '.join(map(str, experts))}" if experts else ""
    return Slice(positions=span, experts=experts), words + _phase(field, hit) + _told_by_id(field, hit)


def phase_of_rows(field: ErrorField, hit: Rows | None) -> str | None:
    """The phase of which these are all rows, where there are others."""
    if hit is None or field.phase is None:
        return None
    phase = np.repeat(np.asarray(field.phase), field.slots)
    mine = set(phase[hit].tolist())
    return mine.pop() if len(mine) == 1 and bool(((phase == phase[hit][0]) == hit).all()) and not hit.all() else None


def _phase(field: ErrorField, hit: Rows) -> str:
    phase = phase_of_rows(field, hit)
    return f", those of {phase}," if phase else ""


def _told_by_id(field: ErrorField, hit: Rows) -> str:
    """Whether the token ids of a lookup tell these rows from the others."""
    for ids in field.inputs.values():
        if ids.is_floating_point() or ids.shape != (field.rows,) or hit.all():
            continue
        mine, others = ids.cpu().numpy()[hit], ids.cpu().numpy()[~hit]
        if mine.min() > others.max():
            return f", those of ids from {mine.min()} on,"
        if mine.max() < others.min():
            return f", those of ids up to {mine.max()},"
    return ""
