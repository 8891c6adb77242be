"""How far may two honest results of one dtype be apart? A gate from the format's arithmetic, without clean runs.

Honest: each side is a common exact value, plus the error of an accumulation in float32 (float64 for float64), rounded
to nearest in the dtype `roundings` times, the last of them as stored. Such a pair passes; what follows is how surely.

With y the oracle, x the SUT, d = x - y, u = 2^-p, R roundings, q the smallest subnormal, s the root mean square of an
element's row, c = u / (1 - R u), L = ln(2 tests / level), Y2 = sum y^2, V = sum f y^4, n elements, a the drift
(accumulation) allowance, a' that of many values, and A = sum s^2, three things of a slice are gated:

    element  |x - y| <= R u (|x| + |y|) + R q + 8 (a' s + (a - a') |y|)  each element; the first two terms are certain;
                                                                         its score is 0 where no element is over
    rel_l2   |d|     <= min(2 R c |y|, sqrt(2/3 R c^2 Y2 + 4 R^2 c^2 sqrt(L V / 2))) + R q sqrt(n) + a sqrt(A)
    slope    |<d,y>| <= min(2 R c Y2 + R q sqrt(n Y2),
                            2 c sqrt(R L V) + q sqrt(R L Y2) + (2 R c^2) Y2 + a^2 A + n (R q)^2)
                        + min(a sqrt(A Y2), a sqrt(2 L sum f s^2 y^2) + B Y2)

The first argument of each min is certain (every rounding errs by at most u). The second is Hoeffding's inequality
(1963, theorem 2) for errors of mean zero that lie within +-u|y|: its weights are y^4, so that one large value among
many small ones counts for what it is. f >= 1 grows where values repeat and errors are not independent.
docs/derived-floors.md has the derivation, what the allowances stand for, and what is not covered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import UsageError
from parity.floor.bins import ROW_KINDS, Bin
from parity.metrics import RoundedMoments, RoundingModel, RowRepeats, SliceTable, fold_rounded, rounded_moments
from parity.metrics.rounding import FORMATS

Array = NDArray[np.float64]

LEVEL = 1e-6
"""Chance that an honest tensor has a slice over its gate, by the inequalities above: 1e-3 for a thousand tensors."""

TESTS_A_SLICE = 10
"""Kinds of slices (five) times statistical metrics (rel_l2, slope): each slice gets its equal part of the level."""

BIAS_UNITS = 64.0
"""Systematic error of accumulation allowed in the slope, in unit roundoffs of the accumulator."""

ASKED = 0.01
"""Scale error that a slice should show; slices that cannot are counted."""

PREFIX = "derived:"


@dataclass(frozen=True)
class DerivedFloor:
    """An analytic bound in the place of a calibrated floor. It holds for any stage, layer, phase and position."""

    model: RoundingModel
    by_own_size: ClassVar[bool] = True
    """Whether what a block's own size does not explain keeps a pair from being cleared: so long as nothing but the
    derivation says what is honest."""

    @property
    def label(self) -> str:
        """`derived:bfloat16`, `derived:bfloat16:4`; never to be mistaken for a calibrated floor's."""
        more = "" if self.model.roundings == 1 else f":{self.model.roundings}"
        return f"{PREFIX}{self.model.dtype}{more}"

    def moments(
        self, *, oracle: torch.Tensor, sut: torch.Tensor, edges: Any = None, repeats: RowRepeats | None = None
    ) -> RoundedMoments:
        """What `judge` needs of a pair, as `parity.metrics.pair_moments` takes it."""
        oracle, sut = self._rounded_alike(oracle, sut)
        return rounded_moments(oracle=oracle, sut=sut, model=self.model, edges=edges, repeats=repeats)

    def fold(
        self,
        *,
        oracle: torch.Tensor,
        sut: torch.Tensor,
        edges: Any = None,
        group: NDArray[np.integer] | None = None,
        repeats: RowRepeats | None = None,
    ) -> tuple[RoundedMoments, RoundedMoments]:
        """The same by row and by column block, as `parity.metrics.fold_moments` gives them."""
        oracle, sut = self._rounded_alike(oracle, sut)
        return fold_rounded(oracle=oracle, sut=sut, model=self.model, edges=edges, group=group, repeats=repeats)

    def _rounded_alike(self, oracle: torch.Tensor, sut: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pair, a side that is stored wider than the floor's dtype rounded to it when the other is stored in it.

        Values that differ by less than a rounding interval are rounded alike, so that their errors are one and do not
        average out (a saturated gate: 0.9985, 0.9987, ... are all 1 in bf16). In the wide dtype nothing tells that
        they share an interval; rounded, both sides have the same value. A tensor with a value beyond the
        narrow dtype stays as it is: clipping it would hide a SUT that clips.
        """
        narrow = getattr(torch, self.model.dtype)
        if (oracle.dtype == narrow) == (sut.dtype == narrow):
            return oracle, sut
        if oracle.dtype == narrow:
            return oracle, _rounded(sut, narrow)
        return _rounded(oracle, narrow), sut

    def gate(self, key: Bin) -> None:
        """No gate by bin: what is allowed follows from a slice's own values. A router flip is not excused by it."""

    def judge(
        self,
        *,
        kind: str,
        table: SliceTable,
        slices: int | None = None,
        mode: str = "",
        stage: str = "",
        layer: int | None = None,
        phase: str = "",
        position: NDArray[np.integer] | None = None,
    ) -> dict[str, Array]:
        """Deviation over gate of every slice, for `rel_l2`, `slope` and `element`: above 1 is over the bound.

        table: of moments from `moments`. slices: how many of that kind the whole tensor has, where the table is a part.
        NaN: nothing finite to measure. Raises UsageError for moments without the sums of a rounding bound.
        """
        m = self._checked(table)
        where = {"mode": mode, "stage": stage, "layer": layer, "phase": phase, "position": position}
        return self.adjusted(_scores(m, *self._gates(m, kind, slices or len(table))), kind, where)

    def scale_seen(self, kind: str, table: SliceTable, slices: int | None = None) -> Array:
        """The smallest scale error that reaches a slice's gate: 0.01 is a slice that shows 1 %; inf for zeros."""
        m = self._checked(table)
        return _seen(m, *self._gates(m, kind, slices or len(table)))

    def judge_and_see(
        self, *, kind: str, table: SliceTable, slices: int | None = None
    ) -> tuple[dict[str, Array], Array]:
        """`judge` and `scale_seen` of the same slices, with their gates worked out once."""
        m = self._checked(table)
        gates = self._gates(m, kind, slices or len(table))
        return self.adjusted(_scores(m, *gates), kind, {}), _seen(m, *gates)

    def adjusted(self, found: dict[str, Array], kind: str, where: Mapping[str, Any]) -> dict[str, Array]:
        """Scores as a floor that stands on this one gives them. where: what `judge` was told of the site."""
        return found

    def _gates(self, m: RoundedMoments, kind: str, slices: int) -> tuple[Array, Array]:
        """Largest honest |d| and |<d, y>| of every slice, in the tensors' own units."""
        model, rounds = self.model, self.model.roundings
        most = model.relative  # 2 R c
        each = most / (2 * rounds)  # c
        log = math.log(2 * TESTS_A_SLICE * max(slices, 1) / LEVEL)
        row = kind in ROW_KINDS
        count = np.maximum(m.finite, 1).astype(np.float64)
        norm = np.sqrt(m.yy)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            # Cauchy-Schwarz; it matters where y^4 underflows.
            fourth = np.maximum(m.fourth if row else m.fourth_across, m.yy**2 / count)
            drift = model.drift(np.where(fourth > 0, m.yy**2 / fourth, 1.0))
            certain = most * norm
            likely = np.sqrt(2 / 3 * rounds * each**2 * m.yy + most**2 * np.sqrt(log / 2 * fourth))
            rel = np.fmin(certain, likely) + model.absolute * np.sqrt(count) + drift * np.sqrt(m.size)
            certain = most * m.yy + model.absolute * np.sqrt(count * m.yy)
            likely = 2 * each * np.sqrt(rounds * log * fourth) + model.spacing * np.sqrt(rounds * log * m.yy)
            likely += 2 * rounds * each**2 * m.yy + drift**2 * m.size + count * model.absolute**2
            lever = m.lever if row else m.lever_across
            swing = np.fmin(drift * np.sqrt(m.size * m.yy), drift * np.sqrt(2 * log * lever))
        return rel, np.fmin(certain, likely) + swing + BIAS_UNITS * model.accumulator * m.yy

    def _checked(self, table: SliceTable) -> RoundedMoments:
        if not isinstance(table.moments, RoundedMoments):
            raise UsageError(
                place=f"{self.label}, slices of kind {table.kind}",
                expected="moments with the sums of a rounding bound",
                found=type(table.moments).__name__,
                next_step="Measure the pair with this floor's own `moments`.",
            )
        return table.moments


def _scores(m: RoundedMoments, rel: Array, slope: Array) -> dict[str, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        over = {
            "rel_l2": np.where(m.dd == 0, 0.0, np.sqrt(m.dd) / rel),
            "slope": np.where(m.dy == 0, 0.0, np.abs(m.dy) / slope),
            "element": m.element,
        }
    none = m.finite == 0
    return {name: np.where(none, np.nan, value) for name, value in over.items()} if none.any() else over


def _seen(m: RoundedMoments, rel: Array, slope: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(m.yy > 0, np.minimum(slope / m.yy, rel / np.sqrt(m.yy)), np.inf)


def derive_floor(name: str) -> DerivedFloor:
    """The bound that `derived:DTYPE` or `derived:DTYPE:ROUNDINGS` names; the prefix may be left out.

    Raises DtypeError for a dtype without a bound, ValueRangeError for a number of roundings below 1, UsageError for
    another spelling.
    """
    dtype, _, rounds = name.removeprefix(PREFIX).partition(":")
    if rounds and not (rounds.isascii() and rounds.isdecimal() and len(rounds) < 8):
        raise UsageError(
            place=f"floor {name!r}",
            expected="derived:DTYPE, or derived:DTYPE:N with N roundings on each side",
            found=repr(rounds),
            next_step="For instance --floor derived:bfloat16, or --floor derived:bfloat16:4.",
        )
    return DerivedFloor(RoundingModel(dtype.removeprefix("torch."), int(rounds) if rounds else 1))


def _rounded(wide: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`wide` to nearest in `dtype`; itself where a value is beyond `dtype`, or where it is no wider."""
    if FORMATS[str(wide.dtype).removeprefix("torch.")][0] <= FORMATS[str(dtype).removeprefix("torch.")][0]:
        return wide
    # Which conversions saturate and which give NaN depends on torch's version: neither may stand for the value.
    beyond = (wide.abs() > torch.finfo(dtype).max) & torch.isfinite(wide)
    return wide if bool(beyond.any()) else wide.to(dtype)
