"""How are the sums of a rounding bound collected in the same pass over memory as the moments?

By moments.c where it is compiled; in torch, block by block, where it is not (parity.metrics.plain_rounded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from parity.metrics.moments import Moments
from parity.metrics.native import Bound, native_kernel
from parity.metrics.pairs import (
    COUNTS,
    ROUNDED_SUMS,
    Progress,
    add_sums,
    as_moments,
    checked_edges,
    checked_groups,
    native_cells,
    native_folds,
)
from parity.metrics.plain_rounded import plain_fold, plain_rounded
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

ELEMENT, OWN, FOURTH, SIZE, LEVER = range(5, ROUNDED_SUMS)
"""Places of a cell's sums beyond those of its moments, as in cells.h."""

_BASE = tuple(f.name for f in fields(Moments))


def rounded_moments(
    *,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    model: RoundingModel,
    edges: Sequence[int] | None = None,
    repeats: RowRepeats | None = None,
) -> RoundedMoments:
    """`pair_moments` and the sums of a rounding bound, cell by cell.

    oracle, sut, edges: as for `pair_moments`. repeats: of the rows before these, updated; None starts with none.
    Returns RoundedMoments [N, C], 136 bytes a cell (`fold_rounded` keeps less). Raises what `pair_moments` raises.
    """
    edges = checked_edges(oracle, sut, edges)
    kernel = native_kernel() if len(oracle) and edges else None
    repeats = RowRepeats() if repeats is None else repeats
    if kernel is None:
        return plain_rounded(oracle, sut, model, edges or None, repeats)
    sums, counts = native_cells(kernel, oracle, sut, edges, bound=_native_bound(model, oracle))
    again = repeats.factor(sums[..., 1].sum(1), sums[..., FOURTH].sum(1))[:, None]
    return _as_rounded(
        sums, counts, np.diff(np.array(edges, np.int64)), again * sums[..., FOURTH], again * sums[..., LEVER]
    )


def fold_rounded(
    *,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    model: RoundingModel,
    edges: Sequence[int] | None = None,
    group: NDArray[np.integer] | None = None,
    repeats: RowRepeats | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[RoundedMoments, RoundedMoments]:
    """`rounded_moments` of each row, and of each column block by group of rows, without keeping their cells.

    Arguments and result as of `fold_moments`; repeats as of `rounded_moments`.
    """
    edges = checked_edges(oracle, sut, edges)
    rows, cells = len(oracle), max(len(edges) - 1, 0)
    groups_of, groups = checked_groups(group, rows)
    repeats = RowRepeats() if repeats is None else repeats
    kernel = native_kernel() if rows and cells else None
    if kernel is None:
        return plain_fold(oracle, sut, model, edges or None, (groups_of, groups), repeats, progress)
    sums, counts = np.zeros((rows, ROUNDED_SUMS)), np.zeros((rows, COUNTS), np.int64)
    column_sums, column_counts = np.zeros((groups, cells, ROUNDED_SUMS)), np.zeros((groups, cells, COUNTS), np.int64)
    again, across = np.ones(rows), np.zeros((groups, cells, 2))
    bound = _native_bound(model, oracle)
    parts = native_folds(
        kernel, oracle, sut, edges, groups_of, (sums, counts), bound=bound, threads=threads, progress=progress
    )
    for here, names, more_sums, more_counts in parts:
        add_sums(column_sums, names, more_sums)
        column_counts[names] += more_counts
        across[names] += more_sums[..., [FOURTH, LEVER]]
        again[here] = repeats.factor(sums[here, 1], sums[here, FOURTH])
        if not (again[here] > 1).any():
            continue
        repeated = here.start + np.flatnonzero((again[here] > 1) & (sums[here, FOURTH] > 0) & (groups_of[here] >= 0))
        if len(repeated):  # rare: their cells are measured again, and weigh more
            cell_sums, _ = native_cells(kernel, oracle[repeated], sut[repeated], edges, bound=bound, threads=threads)
            more = (again[repeated] - 1)[:, None] * cell_sums[..., FOURTH]
            np.add.at(across[..., 0], groups_of[repeated], more)
            squares = cell_sums[..., 1] * ((again[repeated] - 1) * sums[repeated, LEVER] / sums[repeated, 1])[:, None]
            np.add.at(across[..., 1], groups_of[repeated], squares)
    sizes = np.bincount(groups_of[groups_of >= 0], minlength=groups)[:, None] * np.diff(np.array(edges, np.int64))
    by_row = _as_rounded(sums, counts, np.int64(oracle.shape[1]), again * sums[:, FOURTH], again * sums[:, LEVER])
    return by_row, _as_rounded(column_sums, column_counts, sizes, across[..., 0], across[..., 1])


def _as_rounded(
    sums: Array,
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64] | np.int64,
    fourth_across: Array,
    lever_across: Array,
) -> RoundedMoments:
    """The kernel's arrays as RoundedMoments. sizes: pairs a cell, broadcast."""
    base = as_moments(sums, counts, sizes)
    return RoundedMoments(
        *(getattr(base, name) for name in _BASE),
        fourth=sums[..., FOURTH],
        fourth_across=fourth_across,
        size=sums[..., SIZE],
        lever=sums[..., LEVER],
        lever_across=lever_across,
        element=sums[..., ELEMENT],
        own=sums[..., OWN],
    )


def _native_bound(model: RoundingModel, oracle: torch.Tensor) -> Bound:
    """The bound in moments.c's terms."""
    return _bound_of(model, str(oracle.dtype).removeprefix("torch."), oracle.shape[1])


@lru_cache(maxsize=256)
def _bound_of(model: RoundingModel, dtype: str, width: int) -> Bound:
    at = sampled_columns(width).numpy()
    bound = Bound(
        model.roundings * model.unit,
        model.absolute,
        *model.drift_parts,
        ELEMENT_SPREADS,
        chance_alike(FORMATS[dtype][0]),
        -(-LEAST_VALUES // max(width, 1)),
        LEAST_VALUES,
        len(at),
        at.ctypes.data,
    )
    bound.held = at
    return bound
