"""Does each wrong row hold the row beside it, of tokens or of its expert? All of a range, or one in each tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity.fingerprint.causes import ROWS_SHIFTED
from parity.fingerprint.evidence import LEAST_SHARE, WRONG_ERROR, percent, share_explained
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.subset import place_of_rows
from parity.fingerprint.sums import row_distances

Ints = NDArray[np.int64]

SHIFTS = 8
"""Largest distance in rows that is looked for; a greater one that the moved rows share is taken from them."""

SAME_SHIFT = 0.9
"""Share of the wrong rows that must hold the row at the same distance; equal rows have several sources."""

PAIR = 2
"""Wrong rows up to which only the nearest distance is looked for: equal tokens give so few rows a source at some
distance by chance."""

SAME = WRONG_ERROR / 2
"""Relative error up to which a row is another one: that of a right row."""

SAMPLE = 256
"""Wrong rows, and columns, by which a distance is chosen; the share of rows is then known to 3 % (binomial)."""

TILES = (256, 128, 64, 32, 16)
"""Tile heights after which a row may come again."""


@dataclass(frozen=True)
class Order:
    """Rows in the order of their memory. rank: [rows], a row's place, -1 for none. at: [places], the row there. step:
    places to the next row of its kind. part: [places], rows of one part were computed together."""

    name: str
    rank: Ints
    at: Ints
    step: int
    part: Ints

    def source(self, rows: Ints, by: int) -> tuple[Ints, NDArray[np.bool_]]:
        """(the row `by` before each, whether there is one in the same part)."""
        here = self.rank[rows]
        there = here - by * self.step
        known = (here >= 0) & (there >= 0) & (there < len(self.at))
        there = np.where(known, there, 0)
        known &= self.part[there] == self.part[np.maximum(here, 0)]
        return self.at[there], known


def orders(field: ErrorField) -> Iterator[Order]:
    """Tokens as they follow each other; expert rows also as a grouped kernel packs them, expert by expert."""
    every = np.arange(field.rows)
    yield Order("row", every, every, field.slots, np.zeros(field.rows, np.int64))
    number, expert = field.row_number, field.row_expert
    if number is None or expert is None:
        return
    known = np.flatnonzero((number >= 0) & (expert >= 0))
    at = known[np.lexsort((number[known], expert[known], field.row_launch[known]))]
    if not len(known):
        return
    rank = np.full(field.rows, -1, np.int64)
    rank[at] = np.arange(len(at))
    yield Order("row of its expert", rank, at, 1, field.row_launch[at])


def rows_of_neighbours(
    field: ErrorField, wrong: Ints, moved: Ints | None = None, source: Ints | None = None
) -> Fingerprint | None:
    """The wrong rows as the oracle's rows at one distance before or after them; None where they are not.

    A copy and no permutation: the source may stand where it was too. wrong: rows that are not the oracle's. moved,
    source: rows whose source is known; the distance they share is then tried in place of the SHIFTS nearest ones. Up
    to PAIR rows count where each holds the one next to it. score: the share of the error that the sources explain.
    """
    sample = wrong[np.unique(np.linspace(0, len(wrong) - 1, min(SAMPLE, len(wrong))).astype(int))]
    best: tuple[float, Order | None, int] = (0.0, None, 0)
    nearest = [n for size in range(1, (SHIFTS if len(wrong) > PAIR else 1) + 1) for n in (size, -size)]
    if moved is not None and len(wrong) <= PAIR:
        return None
    for order in orders(field):
        distances = nearest if moved is None or source is None else _shared(order, moved, source)
        for by in distances:
            share = _share_moved(field, order, sample, by, _wrapped(field, order, wrong, by))
            if share > best[0]:
                best = share, order, by
    share, order, by = best
    if order is None or share < SAME_SHIFT:
        return None
    return _said(field, order, wrong, by)


def _shared(order: Order, moved: Ints, source: Ints) -> list[int]:
    """The distance that most of the moved rows have in this order."""
    here, there = order.rank[moved], order.rank[source]
    steps, counts = np.unique((here - there)[(here >= 0) & (there >= 0)], return_counts=True)
    common = int(steps[counts.argmax()]) if len(steps) else 0
    return [common // order.step] if common and common % order.step == 0 else []


def _wrapped(field: ErrorField, order: Order, wrong: Ints, by: int) -> dict[int, int]:
    """Rows of a rolled tail that have their source at its other end, by row; empty unless the wrong rows are all rows
    from one on to the last of their part."""
    place = np.sort(order.rank[wrong])
    size, move = len(place), by * order.step
    last = len(order.at) - 1
    tail = place[0] >= 0 and place[-1] - place[0] + 1 == size and (
        place[-1] == last or order.part[place[-1] + 1] != order.part[place[-1]]
    )  # fmt: skip
    if not tail or size < abs(move) + 2:
        return {}
    ends = range(move) if move > 0 else range(size + move, size)
    return {int(order.at[place[n]]): int(order.at[place[(n - move) % size]]) for n in ends}


def _share_moved(field: ErrorField, order: Order, sample: Ints, by: int, wrapped: dict[int, int]) -> float:
    """Share of the sampled rows, those at the end of a rolled tail left out, that the rows `by` before them explain."""
    asked = sample[~np.isin(sample, list(wrapped))] if wrapped else sample
    source, known = order.source(asked, by)
    if not known.any():
        return 0.0
    step = -(-field.width // SAMPLE)
    rows, source = asked[known], source[known]
    x, y = field.x[rows][:, ::step], field.y[:, ::step]
    rest, size = (x - y[source]).square().sum(1), y[source].square().sum(1)
    return float((rest <= SAME**2 * size).sum()) / len(asked)


def _said(field: ErrorField, order: Order, wrong: Ints, by: int) -> Fingerprint | None:
    source, known = order.source(wrong, by)
    dd = field.sums.rows[2][wrong]
    left, size = dd.copy(), field.sums.rows[0]
    same = np.zeros(len(wrong), bool)
    left[known] = row_distances(field.x[wrong[known]], field.y[source[known]])
    same[known] = left[known] <= SAME**2 * size[source[known]]
    wrapped = _wrapped(field, order, wrong, by)
    if wrapped:
        rows, others = np.array(list(wrapped)), np.array(list(wrapped.values()))
        here = np.searchsorted(wrong, rows)
        other = row_distances(field.x[rows], field.y[others])
        left[here], same[here] = np.minimum(left[here], other), same[here] | (other <= SAME**2 * size[others])
    hit = np.zeros(field.rows, bool)
    hit[wrong[same]] = True
    score = share_explained(field, field.energy - float(dd.sum()) + float(np.minimum(left, dd).sum()))
    if score < LEAST_SHARE:
        return None
    where, words = place_of_rows(field, hit)
    position = field.row_position[hit]
    which = _again(field, hit)
    numbers = {
        "shift": by,
        "explained": score,
        "first_position": int(position.min()),
        "order": order.name,
        "rows": int(hit.sum()),
        "of": field.rows,
    }
    if which:
        numbers |= {"row_of_tile": which[0], "tile": which[1]}
    tile = f", row {which[0]} of each {which[1]}," if which else ""
    sentence = (
        f"{words[0].upper()}{words[1:]}{tile} each hold the oracle's {order.name} {abs(by)} "
        f"{'before' if by > 0 else 'after'} theirs, the others are right: {percent(score)} of the error."
    )
    return Fingerprint(ROWS_SHIFTED, score, numbers, sentence, where)


def _again(field: ErrorField, hit: NDArray[np.bool_]) -> tuple[int, int] | None:
    """(row, height) where the rows are the same one of each tile of the greatest height, of two tiles at least."""
    number = np.arange(field.rows) // field.slots if field.row_number is None else field.row_number
    mine = np.unique(number[hit])
    for height in TILES:
        if len(mine) > 1 and len(np.unique(mine % height)) == 1:
            return int(mine[0] % height), height
    return None
