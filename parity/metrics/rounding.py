"""What is honest noise of a dtype, and which further sums does its bound need besides the moments of a pair?

docs/derived-floors.md derives what is done with them; the symbols here are the ones used there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import DtypeError, ValueRangeError
from parity.metrics.moments import Moments

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
        summed, inside = self.drift_parts
        return np.hypot(summed * FEW_VALUES ** (1 / np.maximum(terms, 1.0)), inside)

    @property
    def drift_parts(self) -> tuple[float, float]:
        """The allowance of many values, in root mean squares: of accumulation, and of roundings before the last."""
        summed = self.roundings**0.5 * DRIFT_UNITS * self.accumulator
        return summed, (2 * (self.roundings - 1)) ** 0.5 * self.unit


@dataclass(frozen=True)
class RoundedMoments(Moments):
    """Moments with the sums of a rounding bound. y: oracle, s: root mean square of y's row, f: how dependent it is.

    fourth: sum of f y^4. fourth_across: the same with f grown for rows that repeat an earlier one.
    size: sum of s^2 over the finite pairs. lever, lever_across: sums of f s^2 y^2.
    element: largest |x - y| over the bound of that very element, 0 where no element is over its bound.
    own: largest |x - y| of a cell (a row's stretch of columns), or of its bulk, over what its own size explains, 0
        where none is over: more than that takes accumulation of the size of the cell's whole row. Only of cells with
        LEAST_VALUES values or more.
    """

    fourth: Array
    fourth_across: Array
    size: Array
    lever: Array
    lever_across: Array
    element: Array
    own: Array


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


def sampled_columns(width: int) -> torch.Tensor:
    """Columns that are looked at for repeated values."""
    return torch.linspace(0, width - 1, min(width, _SAMPLE)).long()


def chance_alike(bits: int) -> float:
    """Share of pairs of independent values that are one value in a format of p = `bits`."""
    return 1.5 * 2.0 ** -(bits - 1)
