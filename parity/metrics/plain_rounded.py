"""What are the sums of a rounding bound, where no compiled kernel is? In torch, fp64 throughout, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.metrics.moments import LARGEST, Moments
from parity.metrics.pairs import Progress, pair_moments
from parity.metrics.rounding import (
    ELEMENT_SPREADS,
    FORMATS,
    LEAST_VALUES,
    Array,
    RoundedMoments,
    RoundingModel,
    RowRepeats,
    chance_alike,
    sampled_columns,
)

_BLOCK_ELEMENTS = 1 << 17
_SPREAD, _CLIPS, _WIDEST_BULK = 4.0, 8, 2048
"""As in bound.h."""


def plain_fold(
    oracle: torch.Tensor,
    sut: torch.Tensor,
    model: RoundingModel,
    edges: Sequence[int] | None,
    grouped: tuple[NDArray[np.int64], int],
    repeats: RowRepeats,
    progress: Progress | None,
) -> tuple[RoundedMoments, RoundedMoments]:
    groups_of, groups = grouped
    rows, width = oracle.shape
    together = -(-LEAST_VALUES // max(width, 1))
    step = max(1, _BLOCK_ELEMENTS // max(width, 1) // together) * together
    starts = list(range(0, max(rows - together + 1, 1), step))
    by_row, columns = [], None
    cells = len(edges) - 1 if edges else 0
    for first, last in pairwise([*starts, rows]):
        part = plain_rounded(oracle[first:last], sut[first:last], model, edges, repeats)
        by_row.append(part.total(axis=1))
        names, _, folded = part.groups(groups_of[first:last])
        if columns is None:
            columns = folded._fold(lambda a: np.zeros((groups, cells), a.dtype))
        for f in fields(RoundedMoments):
            into, more = getattr(columns, f.name), getattr(folded, f.name)
            into[names] = np.maximum(into[names], more) if f.name in LARGEST else into[names] + more
        if progress is not None:
            progress(last - first)
    assert isinstance(columns, RoundedMoments)
    joined = Moments.join(by_row)
    assert isinstance(joined, RoundedMoments)
    return joined, columns


def plain_rounded(
    oracle: torch.Tensor, sut: torch.Tensor, model: RoundingModel, edges: Sequence[int] | None, repeats: RowRepeats
) -> RoundedMoments:
    base = pair_moments(oracle=oracle, sut=sut, edges=edges)
    rows, cells = base.shape
    cuts = (0, oracle.shape[1]) if edges is None else tuple(edges)
    more = {name: np.zeros((rows, cells)) for name in ("fourth", "element")}
    dependence = np.ones(rows)
    bits = FORMATS[str(oracle.dtype).removeprefix("torch.")][0]
    count = base.finite.sum(1)
    squares = base.yy.sum(1)
    size = _row_size(squares, count, oracle.shape[1])
    step = max(1, _BLOCK_ELEMENTS // max(oracle.shape[1], 1))
    for first in range(0, rows if cells else 0, step):
        here = slice(first, first + step)
        y, x = (t[here].to("cpu").to(torch.float64) for t in (oracle, sut))
        if base.nonfinite_oracle[here].any() or base.nonfinite_sut[here].any():
            bad = ~(torch.isfinite(y) & torch.isfinite(x))
            y, x = y.masked_fill(bad, 0.0), x.masked_fill(bad, 0.0)
        y2 = y * y
        for cell, (left, right) in enumerate(pairwise(cuts)):
            part = y2[:, left:right]
            more["fourth"][here, cell] = torch.linalg.vecdot(part, part).numpy()
        fourth = more["fourth"][here].sum(1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            terms = np.where(fourth > 0, squares[here] ** 2 / fourth, 1.0)
            terms[~np.isfinite(terms)] = 1.0
            dependence[here] = 1 + (terms - 1) * _shared_share(y, bits)
            few = model.drift(terms / dependence[here])
        many = model.drift(np.full(len(y), np.inf))
        # What few values are allowed in excess goes with the element's own size: beside one giant, others stay small.
        bound = (y.abs() + x.abs()).mul_(model.roundings * model.unit)
        bound += y.abs().mul_(torch.from_numpy(ELEMENT_SPREADS * (few - many))[:, None])
        bound += torch.from_numpy(ELEMENT_SPREADS * many * np.sqrt(size[here]) + model.absolute)[:, None]
        # 0/0 is equality (NaN to 0); the factor leaves the bound's own rounding out of it.
        ratio = (x - y).abs_().div_(bound.mul_(1 + 1e-12)).nan_to_num_(nan=0.0, posinf=float("inf"))
        ratio.mul_(ratio > 1)
        for cell, (left, right) in enumerate(pairwise(cuts)):
            more["element"][here, cell] = ratio[:, left:right].amax(1).numpy()
    again = repeats.factor(squares, more["fourth"].sum(1))[:, None]
    own = _over_own(base.yy, base.dd, more["fourth"], base.finite, dependence[:, None], model)
    with np.errstate(over="ignore", invalid="ignore"):
        peaked = (own == 0) & (base.dd > 0) & (_SPREAD**2 * base.yy**2 < base.count * more["fourth"])
    for row, cell in np.argwhere(peaked).tolist():
        pair = [t[row, cuts[cell] : cuts[cell + 1]].to(torch.float64).numpy() for t in (oracle, sut)]
        if LEAST_VALUES <= len(pair[0]) <= _WIDEST_BULK:
            both = np.isfinite(pair[0]) & np.isfinite(pair[1])
            own[row, cell] = _over_bulk(pair[0][both], pair[1][both], float(dependence[row]), model)
    fourth = dependence[:, None] * more["fourth"]
    lever = dependence[:, None] * size[:, None] * base.yy
    return RoundedMoments(
        *(getattr(base, f.name) for f in fields(Moments)),
        fourth=fourth,
        fourth_across=again * fourth,
        size=size[:, None] * base.finite,
        lever=lever,
        lever_across=again * lever,
        element=more["element"],
        own=own,
    )


def _over_own(
    yy: Array, dd: Array, fourth: Array, pairs: NDArray[Any], dependence: Array, model: RoundingModel
) -> Array:
    """|d| of each cell over what its own size explains, 0 where it is not over; `over_own` of bound.h."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms = np.where(fourth > 0, yy**2 / fourth, 1.0) / dependence
        drift = model.drift(np.where(np.isfinite(terms), terms, 1.0))
        allowed = (model.relative + drift) * np.sqrt(yy) + model.absolute * np.sqrt(pairs)
        over = np.sqrt(dd) / (allowed * (1 + 1e-12))
    return np.where((over > 1) & (dd > 0) & (pairs >= LEAST_VALUES), over, 0.0)


def _over_bulk(y: Array, x: Array, dependence: float, model: RoundingModel) -> float:
    """The same of a cell without its outliers; `over_bulk` of bound.h. y, x: [n] fp64, finite."""
    squares, kept, before = y * y, np.ones(len(y), bool), -1
    for _ in range(_CLIPS - 1):
        if int(kept.sum()) == before:
            break
        before = int(kept.sum())
        kept = squares <= _SPREAD**2 * squares[kept].sum() / max(before, 1)
    inside, d = squares[kept], (x - y)[kept]
    yy, dd, fourth, pairs = (np.array([v], np.float64) for v in (inside.sum(), d @ d, inside @ inside, kept.sum()))
    return float(_over_own(yy, dd, fourth, pairs, np.array([dependence]), model)[0])


def _row_size(squares: Array, count: NDArray[np.int64], width: int) -> Array:
    """[n], mean square of each row; of narrow rows, the larger of their own and that of LEAST_VALUES values around.

    A row of one value says nothing of the size of what was added up to give it: near zero it is small by chance.
    """
    own = squares / np.maximum(count, 1)
    together = -(-LEAST_VALUES // max(width, 1))
    if together == 1 or len(own) < 2:
        return own
    starts = np.arange(0, max(len(own) - together + 1, 1), together)  # what is left over joins the last group
    sizes = np.diff(np.append(starts, len(own)))
    around = np.add.reduceat(squares, starts) / np.maximum(np.add.reduceat(count, starts), 1)
    return np.maximum(own, np.repeat(around, sizes))


def _shared_share(y: torch.Tensor, bits: int) -> Array:
    """[n], the share of a row's pairs of elements that hold one value, weighted by y^2; what chance makes is left out.

    Elements of one value are rounded alike, so that their errors are one. Independent values meet by chance in a format
    of few bits: 2^(p-1) to a binade, and normal values, weighted by their squares, cover about one and a half of them.
    bits: p of the oracle's dtype. Fewer than 2^(p-1) / 1.5 different values in a row are taken for dependence.
    """
    width = y.shape[1]
    if width < 2:
        return np.zeros(len(y))
    values = y[:, sampled_columns(width)].abs()
    weight = values * values
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-300)
    both = weight[:, :, None] * weight[:, None, :]  # [n, s, s]
    alike = (both * (values[:, :, None] == values[:, None, :])).sum((1, 2))
    alone = (weight * weight).sum(1)
    share = ((alike - alone) / (both.sum((1, 2)) - alone).clamp_min(1e-12)).clamp(0, 1)
    return (share - chance_alike(bits)).clamp_min(0).numpy()
