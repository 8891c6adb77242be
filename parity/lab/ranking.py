"""Which slices of one kind are worst? All heads, experts, rows, column blocks or tiles of a stage, by their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.align import Aligned
from parity.compare import Measured, over_floor_by_kind
from parity.display import Displayed
from parity.fingerprint import ReducedField
from parity.floor import Floor
from parity.invariance import Coverage
from parity.metrics import Moments, nonfinite, rel_l2

TILE = "tile"
KINDS = ("head", "expert", TILE, "columns", "row", "tensor")
MOST_SLICES = 256
"""Slices of one kind that are kept, the worst first: of millions of rows nobody reads more."""


@dataclass(frozen=True)
class RankedSlice:
    """One slice. over_floor: of the worse of its gates, None without a floor; of a tile that of its worst row. by: the
    metric that gave it. rel_l2: |sut - oracle| / |oracle|. lost: the SUT has zeros there and the oracle has not."""

    where: str
    phase: str
    rows: int
    rel_l2: float
    over_floor: float | None
    by: str | None
    lost: bool


@dataclass(frozen=True)
class Ranking(Displayed):
    """Slices of one kind of one site, worst first; of `total`, `over` are over the floor.

    field, launch: what its figure draws.
    """

    site: str
    kind: str
    slices: tuple[RankedSlice, ...]
    total: int
    over: int
    field: ReducedField | None = None
    launch: Coverage | None = None

    def __repr__(self) -> str:
        worst = f"; the worst {self.slices[0].where}" if self.slices else ""
        return f"Ranking({self.site} by {self.kind}: {self.over} of {self.total} over the floor{worst})"


def rank_slices(
    site: str, errors: Sequence[Measured], distances: Sequence[Measured], sut: Aligned, floor: Floor | None
) -> dict[str, Ranking]:
    """A ranking by kind, of every kind that the stage has, without figures.

    errors: against exact arithmetic, one a phase; distances: against the recipe's emulation, of the same phases, empty
    without one. A slice has the worse of both scores; its rel_l2 is the error's. Tiles are those of the kernel that
    states its tile height; a tile has the score of its worst row.
    """
    found: dict[str, list[tuple[list[RankedSlice], int, int]]] = {}
    for number, measured in enumerate(errors):
        by_error = {} if floor is None else over_floor_by_kind(measured, floor, "isolated")
        near = distances[number] if number < len(distances) else None
        by_distance = {} if floor is None or near is None else over_floor_by_kind(near, floor, "distance")
        for kind, table in measured.tables:
            by, over = _worse(by_error.get(kind), by_distance.get(kind), len(table))
            words = _words(measured, table)
            found.setdefault(kind, []).append(_worst(table.moments, table.rows, over, by, words, measured.phase))
            tiles = _tile_numbers(measured, table.index, sut) if kind == "row" else None
            if tiles is not None:
                found.setdefault(TILE, []).append(_rank_tiles(measured, table.moments, tiles, over, by, sut))
    return {kind: _joined(site, kind, found[kind]) for kind in sorted(found, key=_order)}


def _order(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _words(measured: Measured, table: Any) -> Callable[[int], str]:
    return lambda at: measured.words(table, at)


def _joined(site: str, kind: str, parts: Sequence[tuple[list[RankedSlice], int, int]]) -> Ranking:
    slices = sorted((one for part, _, _ in parts for one in part), key=_badness, reverse=True)
    total, over = sum(total for _, total, _ in parts), sum(over for _, _, over in parts)
    return Ranking(site, kind, tuple(slices[:MOST_SLICES]), total, over)


def _badness(one: RankedSlice) -> tuple[float, float]:
    error = one.rel_l2 if math.isfinite(one.rel_l2) else math.inf
    return (-1.0 if one.over_floor is None else one.over_floor), error


def _worst(
    moments: Moments, rows: NDArray[np.int64], over: NDArray[np.float64], by: Sequence[str | None],
    words: Callable[[int], str], phase: str,
) -> tuple[list[RankedSlice], int, int]:  # fmt: skip
    """The worst slices of a table, how many it has, and how many are over the floor."""
    error = np.where(nonfinite(moments) > 0, np.inf, rel_l2(moments))
    lost = (moments.xx == 0) & (moments.yy > 0)
    # Ties in the order of the rows: of a lost tile the first row says where it begins.
    order = np.lexsort((-np.nan_to_num(error, posinf=np.inf), -np.nan_to_num(over, nan=-1.0)))
    slices = [
        RankedSlice(
            words(at), phase, int(rows[at]), float(error[at]),
            None if np.isnan(over[at]) else float(over[at]), by[at], bool(lost[at]),
        )
        for at in order[:MOST_SLICES].tolist()
    ]  # fmt: skip
    return slices, len(rows), int((over > 1).sum())


def _worse(
    error: tuple[list[str], NDArray[np.float64]] | None, distance: tuple[list[str], NDArray[np.float64]] | None, n: int
) -> tuple[list[str | None], NDArray[np.float64]]:
    """The larger score of each slice and the metric that gave it; NaN and None where neither judged."""
    over = np.full(n, np.nan)
    names: list[str | None] = [None] * n
    for scored, note in ((error, ""), (distance, ", to the emulation")):
        if scored is None:
            continue
        larger = np.nan_to_num(scored[1], nan=-1.0) > np.nan_to_num(over, nan=-1.0)
        for at in np.flatnonzero(larger).tolist():
            names[at] = f"{scored[0][at]}{note}"
        over = np.where(larger, scored[1], over)
    return names, over


def _tile_numbers(
    measured: Measured, index: NDArray[np.int64], sut: Aligned
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(expert or launch, tile) of each row; None where the kernel does not state its tile, or a row its place in it."""
    labels = measured.labels[index]
    if sut.tile_m is None or not len(index):
        return None
    if sut.expert is not None:
        group, number = labels.expert, labels.number
    else:
        token = labels.position - sut.position[0]
        group = sut.launch[token]
        first = {int(launch): int(sut.position[sut.launch == launch].min()) for launch in np.unique(group)}
        number = labels.position - np.array([first[int(launch)] for launch in group])
    return None if (number < 0).any() else (group, number // sut.tile_m)


def _rank_tiles(
    measured: Measured, moments: Moments, tiles: tuple[NDArray[np.int64], NDArray[np.int64]],
    over: NDArray[np.float64], by: Sequence[str | None], sut: Aligned,
) -> tuple[list[RankedSlice], int, int]:  # fmt: skip
    group, tile = tiles
    height = sut.tile_m or 1
    most = int(tile.max()) + 1
    names, rows, together = moments.groups(group * most + tile)
    at = np.searchsorted(names, group * most + tile)
    score, worst = np.full(len(names), -np.inf), np.zeros(len(names), np.int64)
    filled = np.nan_to_num(over, nan=-1.0)
    for row in np.argsort(filled, kind="stable").tolist():  # the last that is written is the worst
        score[at[row]], worst[at[row]] = filled[row], row
    what = "expert" if sut.expert is not None else "launch"

    def words(number: int) -> str:
        owner, first = int(names[number]) // most, int(names[number]) % most * height
        return f"{what} {owner}, its rows {first}..{first + height - 1}"

    scores = np.where(score < 0, np.nan, score)
    return _worst(together, rows, scores, [by[row] for row in worst.tolist()], words, measured.phase)
