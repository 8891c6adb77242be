"""How large may a slice's deviation be in the next clean run? The gate of a floor, from a handful of clean runs.

Every run is one sample: what must stay rare is a clean *run* with any slice over its gate, however many slices it has.

1. A bin's value in a run is the run's worst deviation v there. y = v^(2/3): deviations are roots of sums of squares,
   and that power makes such a root nearly normal whatever the number of terms (Wilson & Hilferty 1931,
   doi 10.1073/pnas.17.12.684). A logarithm would not do: a signed deviation such as slope - 1 of one whole tensor comes
   near zero in some run by luck, and one such run drags a geometric mean down and the spread of logarithms up.
2. Each bin has its own centre m (mean of y over runs) and spread s: one that varies by factors from run to run (the
   slope of one tensor) must not set the gate of one that hardly varies (the worst of a thousand rows).
   The relative spread of a bin from six runs is itself noise. It is shrunk towards that of the same stage in all
   layers, and that towards all stages (Smyth 2004, doi 10.2202/1544-6115.1027), and is at least LEAST_SPREAD.
   Where a stage inherits the errors of others (`chained`, `free`) a spread is at least one `resolution` besides: every
   stage before it may have re-ordered its sums. In FP32 nearly all clean runs lie at that resolution, and counted in
   twentieths of it a row at twice the resolution stood twenty spreads out; continued to 1e-4, and over all sites
   again, such rows opened `moe.experts` of layer 3 to 1.5, where 400 clean runs reach 1e-5.
   A bin counts when two thirds of the runs have it, or ENOUGH_RUNS: three values near zero by luck make any fourth
   look wild. Where fewer than ENOUGH_RUNS have it, a run without slices of that size stands in with its worst of a
   size up to two octaves smaller, for m and s only.
   An engine computes in one order of sums all its life, and clean runs are a mixture over orders. A bin's distance to
   the emulation can be all but 0 in most orders, and 1e-3 in those of a GPU's matrix units: the mean over the mixture
   is then the scale of no engine. One run of the loud order was seen 40 spreads above it, and the gates of all other
   bins, which share the bound of z, opened as wide. So m is the largest centre of any one order, and the relative
   spread is pooled within those orders whose centre is at least half of it: the calm ones know nothing of the loud
   one's noise. Then z compares over bins, whatever the order of a run.
   It takes ENOUGH_RUNS of each order, and a bin counts when two runs of each order have it; with fewer runs the orders
   are taken for one.
3. z of a clean run: the largest (y - m) / (s * sqrt(1 + 1/runs)) over all bins, with m and s from the *other* runs.
   One site whose worst score has a heavy tail must not set the gate of all others. From TAIL_RUNS runs on the spreads
   of the bins of each stage, layer and kind of slice are widened by what a share `level` of runs exceeds there (the
   tail of step 4, at least one), and z is what is left: near 1 where that model is right, and gated over all of them
   together. Kinds stand apart: a single row that a massive element carries jumps by a step of BF16 now and then, and
   the slope of 512 rows does not. In one group, the rows of FP8's `moe.experts` in layer 2 opened the slope of the
   whole tensor there to 1.2, where 400 clean runs reach 1.2e-3.
   A tail far beyond the runs is itself mostly noise: from the twenty largest of 400 its logarithm is known to a quarter
   of itself. One that looks light is therefore drawn half way, on a logarithmic scale, to the tail of the same kinds of
   slices of that stage in all layers, as spreads are in step 2. One that is heavier than theirs stays: a layer in which
   one massive element carries rows has such a tail.
4. The bound of the next clean run's z at `level` is exp(mean(ln z) + t(1 - level; f) * sd * sqrt(1 + 1/n)), the
   one-sided prediction bound of a lognormal (Hahn & Meeker, Statistical Intervals, 1991, 4.8). sd is shrunk towards
   PRIOR_SPREAD_OF_Z with the weight of PRIOR_RUNS runs; f = n - 1 + PRIOR_RUNS.
   The gate of a bin is the deviation whose z equals that bound.

Assumed: clean runs are exchangeable and a run's worst z is lognormal (it is a largest of many, so skewed to the right).
Six runs cannot show a level of 1e-3 without an assumption: such a gate is labelled `lognormal`, and is never below
a clean run's own z. From 1 / level runs on
the conformal quantile of z takes the place of step 4, the ceil((n + 1)(1 - level))-th smallest of the runs' own z:
under exchangeability alone the next run is above it with probability at most `level` (Vovk, Gammerman & Shafer 2005,
Algorithmic Learning in a Random World, 2.2; with z from the other runs, Barber et al. 2021, doi 10.1214/20-AOS1965).
n runs cannot show a level below 1 / (n + 1) by rank: the largest of 400 is passed by one run in 401, and by one in two
of 200 runs of a flawless engine. Below that, and from TAIL_RUNS runs on, the bound continues the runs' own upper tail
as a power law, u * (k / (n * level))^xi, with u the (k+1)-th largest of t = 1 + z, k a twentieth of the runs and xi the
mean of ln(t / u) over the k largest (Hill 1975, doi 10.1214/aos/1176343247; Weissman 1978, doi 10.2307/2286285). Such a
gate is labelled `tail`, and is never below a clean run's own z. A power law is the heaviest of the usual tails: where
the true one is lighter the gate is wider than asked, not narrower.
Why 1 + z: Hill's estimate depends on where zero lies. What is positive and may have such a tail is the deviation, whose
zero is m/s spreads below the centre, one at least since no spread is larger than its centre there. Of z itself, zero at
the centre, a site whose runs lie near it would be a ratio of nearly nothing to nothing: gates of 1e6 were seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parity.floor.bins import INHERITING, Bin, resolution
from parity.floor.student import upper_quantile

RULE = 3
"""Number of the rule above, raised with every change that makes another gate of the same runs. 0: before rules had
numbers, kinds of slices shared a tail; 2: each kind has its own, a light one drawn half way to that of all layers; 3:
chained spreads are at least one resolution, which moves FP32: of FP8's 400 runs it makes the gates that rule 2 made."""

LEAST_RUNS = 4
ENOUGH_RUNS = 8
"""Runs that make a bin count however many others lack it: 12 runs, two thirds, were found enough for every size before
runs of many lengths were mixed."""

TAIL_RUNS = 200
TAIL_SHARE = 20
"""Runs from which a tail is read off, and the share of them, one in so many, that it is read from: ten at least, whose
mean log-excess is known to a third."""

LEAST_OF_AN_ORDER = 2
LOUD = 0.5
"""Orders whose centre is at least that share of the largest lend it their relative spread."""

NEAR_SIZES = 2
LEAST_SPREAD = 0.05
"""Least relative spread of y. Clean prompts can share their first tokens, whose errors then repeat bit for bit, while
another summation order of the same recipe moves a single row's error by some percent."""

LEAST_SPREAD_OF_FLIPS = 1 / 3
"""The same by distance, where an error is a count of elements rounded the other way: a count near one has a relative
standard deviation of one, its root of a half, and y of two thirds of that."""

PRIOR_SPREAD_OF_Z = 0.25
PRIOR_RUNS = 8
"""Standard deviation of ln z before any run is seen. The largest of 1000 to 4000 normal deviates has 0.10 (Gumbel,
1.28 / (2 ln B)); scales that are themselves from six to twelve runs bring it to 0.16 to 0.33 on synthetic FP8 layers.
Without a prior a bound from six runs lies anywhere between 2 and 5 times their mean z."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """What a bin's worst deviation is in clean runs: centre and spread of y = v^(2/3), from how many runs."""

    centre: float
    spread: float
    runs: int

    @property
    def typical(self) -> float:
        """The central worst deviation of a clean run."""
        return self.centre**1.5

    def times(self, factor: float) -> Scale:
        """The scale of a bin whose deviations are that many times larger."""
        return replace(self, centre=self.centre * factor ** (2 / 3), spread=self.spread * factor ** (2 / 3))

    def at(self, z: float) -> float:
        """The deviation that stands z spreads above the centre; the centre's own uncertainty is in it."""
        return max(self.centre + z * self.spread * (1 + 1 / self.runs) ** 0.5, 0.0) ** 1.5


@dataclass(frozen=True)
class Gate:
    """The gate of one mode. z: the bound; run_z: the clean runs' own z, sorted; level: share allowed over the bound.

    method: `conformal`, from the runs alone; `tail`, from the power law of their largest z; or `lognormal`, by the
    model of step 4.
    """

    z: float
    run_z: tuple[float, ...]
    level: float
    method: str = "lognormal"


def set_gate(
    worst: Array, keys: Sequence[Bin], level: float, *, orders: NDArray[np.integer] | None = None
) -> tuple[list[Scale | None], Gate | None]:
    """Scales and gate of one mode's bins.

    worst: [n, B], a run's worst deviation in each bin, NaN where it has none. orders: [n], the order of arithmetic of
    each run; None: one. Returns the scale of each bin, None for one that too few runs have to be judged by; and the
    gate, or None from fewer than 4 runs or without any bin that varies.
    """
    least = np.array([resolution(key) for key in keys])
    y = np.maximum(_with_smaller_sizes(worst, keys), least) ** (2 / 3)
    groups = _groups_of_orders(orders, len(worst))
    sums = _sums(y, groups)
    least_of_order = LEAST_OF_AN_ORDER if len(sums.runs) > 1 else 0
    counts = (sums.runs.sum(0) >= least_runs_of_a_bin(len(worst))) & (sums.runs.min(0) >= least_of_order)
    least_spread = np.array([LEAST_SPREAD_OF_FLIPS if key.mode == "distance" else LEAST_SPREAD for key in keys])
    least_step = np.array([resolution(key) if key.mode in INHERITING else 0.0 for key in keys]) ** (2 / 3)
    stages = _groups([(k.stage, *_kind_of(k)) for k in keys])
    kinds = _groups([_kind_of(k) for k in keys])
    names = _groups([(k.stage, k.layer, k.kind) for k in keys])
    alike = np.zeros(names.max(initial=0) + 1, np.int64)
    alike[names] = _groups([(k.stage, k.kind) for k in keys])
    scores = np.full((len(y), names.max(initial=0) + 1), -np.inf)
    for run in range(len(y)):
        centre, spread, runs = _location(sums.without(y[run], groups[run]), stages, kinds, least_spread, least_step)
        known = np.flatnonzero(~np.isnan(worst[run]) & counts & (centre > 0))
        excess = (y[run] - centre)[known] / (spread * np.sqrt(1 + 1 / np.maximum(runs, 1)))[known]
        np.maximum.at(scores[run], names[known], excess)
    tails = _tails(scores, alike, level)
    z = (scores / tails).max(1, initial=-np.inf)
    centre, spread, runs = _location(sums, stages, kinds, least_spread, least_step)
    scales = [
        Scale(_short(m), _short(s), int(r)) if c else None
        for m, s, r, c in zip(centre, spread * tails[names], runs, counts, strict=True)
    ]
    z = z[np.isfinite(z)]
    if len(z) < LEAST_RUNS:
        return scales, None
    bound, method = conformal_bound(z, level), "conformal"
    if bound is None:
        model, method = (tail_bound, "tail") if len(z) >= TAIL_RUNS else (lognormal_bound, "lognormal")
        # A model's bound that a clean run is over already is refuted by that run.
        bound = max(model(z, level), float(z.max()))
    return scales, Gate(float(bound), tuple(_short(one) for one in sorted(z.tolist())), level, method)


def _tails(scores: Array, alike: NDArray[np.int64], level: float) -> Array:
    """[S], what a share `level` of runs exceeds at each site and kind, at least 1; scores: [n, S], -inf without one.

    alike: [S], which sites and kinds are one stage's in several layers; each tail is at least the geometric mean of its
    own and of that of all of them.
    """
    found = np.ones(scores.shape[1])
    known = np.isfinite(scores)
    judged = known.sum(0) >= TAIL_RUNS
    for group in np.unique(alike[judged]):
        of_group = alike == group
        of_all = max(tail_bound(scores[:, of_group][known[:, of_group]], level), 1.0)
        for site in np.flatnonzero(of_group & judged):
            own = max(tail_bound(scores[known[:, site], site], level), 1.0)
            found[site] = max(own, math.sqrt(own * of_all))
    return found


def conformal_bound(z: Array, level: float) -> float | None:
    """The order statistic that the next exchangeable run exceeds with probability at most `level`; None when too few
    runs have one (fewer than 1 / level - 1)."""
    rank = int(np.ceil((len(z) + 1) * (1 - level) - 1e-9))
    return None if rank > len(z) else float(np.sort(z)[rank - 1])


def tail_bound(z: Array, level: float) -> float:
    """The z that a share `level` of runs exceeds, if the upper tail of 1 + z is a power law; at least TAIL_SHARE runs.

    Not below the (k+1)-th largest z; 0 where that lies a spread or more below the centre: such runs have no tail.
    """
    ordered, largest = np.sort(z) + 1, len(z) // TAIL_SHARE
    start = float(ordered[-largest - 1])
    if start <= 0:
        return 0.0
    slope = float(np.log(ordered[-largest:] / start).mean())
    return start * max(largest / (len(z) * level), 1.0) ** slope - 1


def lognormal_bound(z: Array, level: float) -> float:
    """The upper prediction bound of one more run's z, by the model of step 4."""
    log_z, freedom = np.log(np.maximum(z, 1.0)), len(z) - 1 + PRIOR_RUNS
    variance = (((log_z - log_z.mean()) ** 2).sum() + PRIOR_RUNS * PRIOR_SPREAD_OF_Z**2) / freedom
    return float(np.exp(log_z.mean() + upper_quantile(level, freedom) * np.sqrt(variance * (1 + 1 / len(z)))))


def _short(value: float) -> float:
    """Five digits: a scale from tens of runs is known to one, and a stored floor stays small."""
    return float(f"{value:.5g}")


def least_runs_of_a_bin(runs: int) -> int:
    """In how many of `runs` clean runs a bin must occur to be judged by."""
    return max(3, min(-(-2 * runs // 3), ENOUGH_RUNS))


def substitute_sizes(size: int) -> list[tuple[int, float]]:
    """Which size ranges may stand in for one, best first, and the factor on their deviation.

    Smaller slices average over fewer rows: their deviation is too large as it is. Of larger ones the deviation is
    scaled by the square root of the largest ratio of rows, 2^(k+1) between ranges k octaves apart: that is how a mean
    over independent rows grows, and rows whose errors agree make it grow less.
    """
    if size < 0:
        return []
    smaller = [(size - k, 1.0) for k in range(1, min(NEAR_SIZES, size) + 1)]
    return smaller + [(size + k, 2.0 ** ((k + 1) / 2)) for k in range(1, NEAR_SIZES + 1)]


def _with_smaller_sizes(worst: Array, keys: Sequence[Bin]) -> Array:
    """Missing entries of bins that fewer than ENOUGH_RUNS have, filled from the same run's smaller sizes."""
    at = {key: column for column, key in enumerate(keys)}
    filled, short = worst.copy(), (~np.isnan(worst)).sum(0) < ENOUGH_RUNS
    for column in np.flatnonzero(short).tolist():
        key = keys[column]
        for size, _ in (near for near in substitute_sizes(key.size) if near[0] < key.size):
            other = at.get(key._replace(size=size))
            if other is not None:
                filled[:, column] = np.where(np.isnan(filled[:, column]), worst[:, other], filled[:, column])
    return filled


def _kind_of(key: Bin) -> tuple[str, str, str, int, int]:
    return key.kind, key.metric, key.phase, key.position, key.size


def _groups(names: list) -> NDArray[np.int64]:
    return np.unique([str(name) for name in names], return_inverse=True)[1]


@dataclass(frozen=True)
class _Sums:
    """[O, B] by order and bin: how many runs, the sum of their y and of its squares."""

    runs: NDArray[np.int64]
    total: Array
    squares: Array

    def without(self, y: Array, order: int) -> _Sums:
        """The same without one run of that order; y: [B]."""
        runs, total, squares = self.runs.copy(), self.total.copy(), self.squares.copy()
        runs[order] -= ~np.isnan(y)
        total[order] -= np.nan_to_num(y)
        squares[order] -= np.nan_to_num(y) ** 2
        return _Sums(runs, total, squares)


def _sums(y: Array, groups: NDArray[np.int64]) -> _Sums:
    parts = [y[groups == order] for order in range(groups.max(initial=0) + 1)]
    runs = np.stack([(~np.isnan(part)).sum(0) for part in parts])
    return _Sums(runs, np.stack([np.nansum(p, 0) for p in parts]), np.stack([np.nansum(p**2, 0) for p in parts]))


def _groups_of_orders(orders: NDArray[np.integer] | None, runs: int) -> NDArray[np.int64]:
    """[n], the number of each run's order from 0; all 0 where some order has fewer than ENOUGH_RUNS."""
    if orders is None or not runs:
        return np.zeros(runs, np.int64)
    _, groups, counts = np.unique(orders, return_inverse=True, return_counts=True)
    return groups.astype(np.int64) if counts.min() >= ENOUGH_RUNS else np.zeros(runs, np.int64)


def _location(
    sums: _Sums, stages: NDArray[np.int64], kinds: NDArray[np.int64], least_spread: Array, least_step: Array
) -> tuple[Array, Array, NDArray[np.int64]]:
    """(centre, spread, runs) of each bin, the runs those of the order that has the largest centre.

    stages, kinds: [B], the groups that its relative spread is shrunk towards.
    """
    centres = np.where(sums.runs > 0, sums.total / np.maximum(sums.runs, 1), 0.0)
    loudest = centres.argmax(0)
    bins = np.arange(len(loudest))
    centre, runs = centres[loudest, bins], sums.runs[loudest, bins]
    loud = (centres >= LOUD * centre) & (sums.runs > 0) & (centre > 0)
    within = np.maximum(sums.squares - sums.runs * centres**2, 0.0)
    squares = np.where(loud, within / np.where(loud, centres, 1.0) ** 2, 0.0).sum(0)
    freedom = np.where(loud, np.maximum(sums.runs - 1, 0), 0).sum(0)
    # What a group of bins knows of a spread weighs as much as one bin that every run of an order has.
    weight = max(int(sums.runs.max(initial=0)) - 1, 1)
    of_kind = np.bincount(kinds, squares) / np.maximum(np.bincount(kinds, freedom), 1)
    sum_stage, free_stage = np.bincount(stages, squares), np.bincount(stages, freedom)
    kind_of_stage = np.zeros(len(sum_stage), np.int64)
    kind_of_stage[stages] = kinds
    of_stage = (sum_stage + weight * of_kind[kind_of_stage]) / (free_stage + weight)
    relative = np.sqrt((squares + 2 * weight * of_stage[stages]) / (freedom + 2 * weight))
    return centre, np.maximum(centre * np.maximum(relative, least_spread), least_step), runs
