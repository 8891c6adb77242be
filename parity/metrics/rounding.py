"""Which further sums does an analytic rounding bound need, besides the moments of a pair?

Moments that would fit into the same pass over memory as `pair_moments`: the sum of y^4, and the largest |x - y| over
its own bound. Until they do, `rounded_moments` reads the pair a second time, block by block.

docs/derived-floors.md derives what is done with them; the symbols here are the ones used there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import DtypeError, ValueRangeError
from parity.metrics.moments import Moments
from parity.metrics.pairs import pair_moments

Array = NDArray[np.float64]

FORMATS: dict[str, tuple[int, int]] = {
    "float64": (53, -1074),
    "float32": (24, -149),
    "float16": (11, -24),
    "bfloat16": (8, -133),
    "float8_e4m3fn": (4, -9),
    "float8_e4m3fnuz": (4, -10),
    "float8_e5m2": (3, -16),
    "float8_e5m2fnuz": (3, -17),
}
"""Significant bits p (the hidden one included) and exponent of the smallest subnormal. Not from torch.finfo, whose
eps of float8_e5m2fnuz is half of what the format has (torch 2.13)."""

DRIFT_UNITS = 2.0**12
"""Accumulation error allowed, in unit roundoffs of the accumulator: root mean square over a slice, relative to that of
its rows."""

FEW_VALUES = 16.0
"""How much more may drift where one value decides: its natural size may be 16 times what it happens to be."""

LEAST_VALUES = 16
"""Values that tell the size of what was added up; rows of fewer are taken together with their neighbours."""

ELEMENT_SPREADS = 8.0
"""Spreads of accumulation error that one element may show: a normal deviate passes 8 once in 8e14."""

_BLOCK_ELEMENTS = 1 << 17
_SAMPLE = 32  # elements of a row looked at for repeated values: 496 pairs
_REMEMBERED_ROWS = 1 << 18


@dataclass(frozen=True)
class RoundingModel:
    """What honest noise of a dtype is: `roundings` to it on each side, and accumulation in float32 or wider.

    dtype: a name of FORMATS. Raises DtypeError for another one, ValueRangeError for fewer than one rounding.
    """

    dtype: str
    roundings: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in FORMATS:
            raise DtypeError(
                place="derived floor",
                expected="one of " + ", ".join(FORMATS),
                found=repr(self.dtype),
                next_step="Name the dtype that both sides were rounded to, for instance derived:bfloat16.",
            )
        if not 1 <= self.roundings <= 10**6:
            raise ValueRangeError(
                place=f"derived floor of {self.dtype}",
                expected="1 to 1000000 roundings on each side",
                found=str(self.roundings),
                next_step="State how often each side was rounded to that dtype, for instance derived:bfloat16:4.",
            )

    @property
    def unit(self) -> float:
        """Unit roundoff u = 2^-p: the largest relative error of one rounding to nearest."""
        return 2.0 ** -FORMATS[self.dtype][0]

    @property
    def spacing(self) -> float:
        """Smallest subnormal; a rounding below the normal range errs by up to half of it."""
        return 2.0 ** FORMATS[self.dtype][1]

    @property
    def accumulator(self) -> float:
        """Unit roundoff of the accumulator: float32, or float64 when that is the dtype."""
        return min(self.unit, 2.0**-24)

    @property
    def relative(self) -> float:
        """Largest |x - y| / |y| from all roundings of both sides; below 1."""
        total = self.roundings * self.unit
        return 2 * total / (1 - total) if total < 1 / 3 else 1.0

    @property
    def absolute(self) -> float:
        """Largest |x - y| from roundings of both sides in the subnormal range."""
        return self.roundings * self.spacing

    def drift(self, terms: Array) -> Array:
        """Accumulation error allowed in a slice, relative to its rows' root mean square.

        terms: effective number of independent values, >= 1.
        """
        summed = self.roundings**0.5 * DRIFT_UNITS * self.accumulator * FEW_VALUES ** (1 / np.maximum(terms, 1.0))
        inside = (2 * (self.roundings - 1)) ** 0.5 * self.unit
        return np.hypot(summed, inside)


@dataclass(frozen=True)
class RoundedMoments(Moments):
    """Moments with the sums of a rounding bound. y: oracle, s: root mean square of y's row, f: how dependent it is.

    fourth: sum of f y^4. fourth_across: the same with f grown for rows that repeat an earlier one.
    size: sum of s^2 over the finite pairs. lever, lever_across: sums of f s^2 y^2.
    element: largest |x - y| over the bound of that very element.
    """

    fourth: Array
    fourth_across: Array
    size: Array
    lever: Array
    lever_across: Array
    element: Array


@dataclass
class RowRepeats:
    """How often did each row occur before? Rows are told by their sums of y^2 and y^4, equal to the last bit.

    Remembers some 260,000 different rows, then starts anew.
    """

    seen: dict[tuple[float, float], int] = field(default_factory=dict)

    def factor(self, squares: Array, fourths: Array) -> Array:
        """2k - 1 for the k-th occurrence of a row: over m equal rows these add up to m^2, the weight of m dependent
        terms."""
        result = np.ones(len(squares))
        for at, key in enumerate(zip(squares.tolist(), fourths.tolist(), strict=True)):
            count = self.seen[key] = self.seen.get(key, 0) + 1
            result[at] = 2 * count - 1
        if len(self.seen) > _REMEMBERED_ROWS:
            self.seen.clear()
        return result


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
    Returns RoundedMoments [N, C]. Raises what `pair_moments` raises.
    """
    base = pair_moments(oracle=oracle, sut=sut, edges=edges)
    repeats = RowRepeats() if repeats is None else repeats
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
            dependence[here] = 1 + (terms - 1) * _shared_share(y, bits)
            few = model.drift(terms / dependence[here])
        many = model.drift(np.full(len(y), np.inf))
        # What few values are allowed in excess goes with the element's own size: beside one giant, others stay small.
        bound = (y.abs() + x.abs()).mul_(model.roundings * model.unit)
        bound += y.abs().mul_(torch.from_numpy(ELEMENT_SPREADS * (few - many))[:, None])
        bound += torch.from_numpy(ELEMENT_SPREADS * many * np.sqrt(size[here]) + model.absolute)[:, None]
        # 0/0 is equality (NaN to 0); the factor leaves the bound's own rounding out of it.
        ratio = (x - y).abs_().div_(bound.mul_(1 + 1e-12)).nan_to_num_(nan=0.0, posinf=float("inf"))
        for cell, (left, right) in enumerate(pairwise(cuts)):
            more["element"][here, cell] = ratio[:, left:right].amax(1).numpy()
    again = repeats.factor(squares, more["fourth"].sum(1))[:, None]
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
    )


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
    at = torch.linspace(0, width - 1, min(width, _SAMPLE)).long()
    values = y[:, at].abs()
    weight = values * values
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-300)
    # [n, s, s] in float32: a bound's width needs no more.
    both = (weight[:, :, None] * weight[:, None, :]).to(torch.float32)
    alike = (both * (values[:, :, None] == values[:, None, :])).sum((1, 2))
    alone = (weight * weight).sum(1).to(torch.float32)
    share = ((alike - alone) / (both.sum((1, 2)) - alone).clamp_min(1e-12)).clamp(0, 1)
    chance = 1.5 * 2.0 ** -(bits - 1)
    return (share - chance).clamp_min(0).numpy().astype(np.float64)
