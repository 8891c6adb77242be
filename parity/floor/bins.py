"""Which slices share a noise scale, and which of their metrics are judged?

A bin pools the clean slices of one (mode, stage, layer, slice kind, metric, phase) and one range:
rows by the range of their absolute position (powers of four: error grows with position by attention and rope),
larger slices by the range of their number of rows (powers of two: errors of a slice shrink as it grows), those that
repeat one another counted for what they are worth (parity/metrics/repeats.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parity.floor.steps import without_a_step
from parity.metrics import Moments, SliceTable, max_abs, norm_ratio_error, rel_l2, slope_error

FLIPPED = "flipped_row"
"""Kind of the rows whose token was routed otherwise upstream: legitimate, and far noisier than the rest."""

ROW_KINDS = ("row", FLIPPED)

GATED = ("rel_l2", "slope", "norm_ratio")
"""Metrics that are judged, by the metric they deviate in: rel_l2 itself, |slope - 1|, |norm_ratio - 1|."""

MODES = ("chained", "free", "isolated", "distance")
"""What a deviation is measured against: the value of an oracle that was routed as the SUT was (`chained`) or that chose
its own experts (`free`), exact arithmetic on the SUT's inputs (`isolated`), or the recipe's emulation on the SUT's
inputs (`distance`), which shares the recipe's roundings."""

INHERITING = frozenset({"chained", "free"})
"""Modes in which a stage's inputs differ too: every stage upstream has re-ordered its sums."""

_UNIT_ROUNDOFF = 2.0**-24
_BOUNDARY_STEP = 2.0**-8
EXACT_STAGES = frozenset({"embed.out"})
"""Stages that copy: no arithmetic, so a correct implementation differs in no bit from another."""

WIDE_STAGES = frozenset({"moe.router_logits", "moe.topk_weights", "logits"})
"""Stages that the recipes leave in fp32: they end in no rounding to BF16."""


class Bin(NamedTuple):
    """mode: one of `MODES`. position, size: range numbers, -1 where the kind has no such range."""

    mode: str
    stage: str
    layer: int | None
    kind: str
    metric: str
    phase: str
    position: int
    size: int


def position_range(position: NDArray[np.integer]) -> NDArray[np.int64]:
    """0 for position 0, then 1 for 1..3, 2 for 4..15, 3 for 16..63, ..."""
    return _log2(position) // 2 + 1


def size_range(rows: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.int64]:
    """0 for one row, 1 for 2..3, 2 for 4..7, ...; -1 for none."""
    return _log2(rows)


def _log2(values: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.int64]:
    """Floor of the base-2 logarithm, exact below 2^53; -2 for 0, so that a halved one stays below 0."""
    _, exponent = np.frexp(np.asarray(values, np.float64))
    return np.where(np.asarray(values) > 0, exponent - 1, -2).astype(np.int64)


def deviations(kind: str, stage: str, moments: Moments, mode: str = "isolated") -> dict[str, NDArray[np.float64]]:
    """What is judged of slices of that kind: metric to non-negative deviation, 0 for equality.

    Rows have rel_l2 only: their slope and norm follow the direction of one quantization error and add nothing.
    `max_abs` of router logits is recorded without a gate of its own: the margin of a router flip is held against it.
    By distance, stages that end in a rounding have one step of it left out (parity/floor/steps.py).
    """
    if mode == "distance" and stage not in WIDE_STAGES | EXACT_STAGES:
        values = without_a_step(moments)
    else:
        values = {"rel_l2": rel_l2(moments), "slope": slope_error(moments), "norm_ratio": norm_ratio_error(moments)}
    if kind not in ROW_KINDS:
        return values
    values = {"rel_l2": values["rel_l2"]}
    return values | {"max_abs": max_abs(moments)} if stage == "moe.router_logits" and kind == "row" else values


def bin_ranges(table: SliceTable, kind: str, position: NDArray[np.integer]) -> tuple[NDArray, NDArray]:
    """(position range, size range) of every slice of a table; position: [N], of the rows that row slices number."""
    nothing = np.full(len(table), -1, np.int64)
    if kind == "row":
        return position_range(np.asarray(position)[table.index]), nothing
    if kind == FLIPPED:
        return nothing, nothing
    return nothing, size_range(table.rows if table.independent is None else table.independent)


def bin_layer(kind: str, layer: int | None) -> int | None:
    """Rows routed otherwise are few: all layers share their bins."""
    return None if kind == FLIPPED else layer


def resolution(key: Bin) -> float:
    """The smallest scale a bin may have: what reordering one fp32 sum changes.

    Two correct implementations of an fp32 stage differ by the order of their sums although an emulation may share every
    bit with its oracle. A sum of n terms reordered moves by about sqrt(n) unit roundoffs (Higham & Mary 2019,
    doi 10.1137/18M1226312); n = 4096 gives 64 * 2^-24 = 3.8e-6 relative, far below any fault. Copies have none.

    By distance, a stage that ends in a BF16 rounding differs by elements that round the other way, and clean runs may
    show none of them by luck. One that carries its row's norm moves that row by half a step to a step of BF16, 2^-8 at
    least; among n rows of one norm that is 2^-8 / sqrt(n) of their norm and 2^-8 / n of their slope.
    """
    if key.metric == "max_abs" or key.stage in EXACT_STAGES:
        return 0.0
    least = 64 * _UNIT_ROUNDOFF
    if key.mode != "distance" or key.stage in WIDE_STAGES:
        return least
    rows = 2.0 ** max(key.size, 0)
    return max(least, _BOUNDARY_STEP / (rows**0.5 if key.metric == "rel_l2" else rows))
