"""How far may two logits of one position move against each other before it is no noise? The unit, and how many of it.

A token flips when the difference of two logits moves by more than the gap between them. That move, the *swing*
(x_a - x_b) - (y_a - y_b), is what is judged, in units of its standard deviation in a correct implementation:

floor      the unit of a row is sqrt(2) times its clean rms error: two logits whose errors are independent. The error is
           the bin's `typical`, the worst row of half of all clean runs, times the rms of the row. What a correct engine
           shows has two parts, and each is judged by what is known of it. How far off a row is, the floor's gate says;
           it is wide, since a near-tie in a router upstream moves whole rows, and a row within it may be many times as
           far off as usual. Where in the row the error falls does not follow from that: given how far off all other
           logits of the row are, the swing of two of them is a draw with that unit (`own_unit`; the two are left out,
           or a single wrong logit would excuse itself). Measured on clean emulation runs of both fixture models, 11,520
           pairs of contenders each: 1.09 of that unit (rms), 4.3 and 4.9 at most. So a swing is
           a near-tie  within the limit in the floor's units;
           a fault     past the limit in the larger of the floor's unit and the row's own;
           not known   between the two: it is excused only by a row that is further off than clean rows usually are.
emulation  the unit is the root mean square swing between the recipe's emulation and exact arithmetic over all pairs
           of the CONTENDERS largest logits of every position, on the same ids; in a row in which the emulation itself
           is further off as a whole, that row's own. A row in which the SUT alone is so is not known, as with a floor,
           up to the worst row that the emulation shows.
measured   the same between the SUT and the oracle themselves. A faulty SUT makes this unit large, so it judges nothing.

A swing is out of the noise past `limit` units: the normal quantile at ALARM over all pairs looked at (Bonferroni:
ALARM / (2 * positions * CONTENDERS)), and no less than the largest swing that the emulation itself shows. Where the
oracle is not exact both sides carry such an error, and the unit grows by sqrt(2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import UsageError
from parity.floor import Floor
from parity.floor.bins import Bin, position_range
from parity.records import Recipe

CONTENDERS = 5
"""Largest logits of a position between which tokens are taken to flip."""

ALARM = 1e-3
"""Chance that one run of a correct engine shows a swing out of the noise, were its errors normal and no near-tie of a
router falling otherwise than in the emulation. With those it is 2 % (5 of 240 prompts, docs/decoding.md): a finding of
logits alone has to come again on another prompt (`parity.decode.second`)."""

EXACT = ("fp32", "fp64")


@dataclass(frozen=True)
class Noise:
    """source: `floor`, `emulation` or `measured`. unit: [T] logits, NaN where nothing is known. limit: in units.

    judges: whether a swing past the limit is a divergence. row: [T] clean rel_l2 of a row of logits that is just within
    the floor; most: [T] the unit of such a row, or of the emulation's worst, which no row's own may exceed; own: [T]
    root mean square swing of the emulation, or a floor's typical rel_l2 of a row; None where the source has none.
    sentence: where the unit comes from, for a person.
    """

    source: str
    unit: NDArray[np.float64]
    limit: float
    judges: bool
    sentence: str
    row: NDArray[np.float64] | None = None
    own: NDArray[np.float64] | None = None
    most: NDArray[np.float64] | None = None

    def units(self, position: int, swing: float) -> float:
        """A swing at a position in units; inf for one where the noise is 0, NaN where there is no unit."""
        return _in_units(swing, float(self.unit[position]))

    def near_tie(self, position: int, swing: float, own: float) -> bool | None:
        """Whether a swing is within the noise; None where that is not known.

        own: `own_unit` of the two rows of logits, which counts where the source is a floor.
        """
        unit = float(self.unit[position])
        if math.isnan(unit) or math.isnan(swing):
            return None
        if _in_units(swing, unit) <= self.limit:
            return True
        if self.most is None:
            return False
        return None if _in_units(swing, max(unit, min(own, float(self.most[position])))) <= self.limit else False


def own_unit(oracle: torch.Tensor, sut: torch.Tensor, pair: tuple[int, int]) -> float:
    """sqrt(2) times the rms error, about its mean, of the logits [V] of one row that are not of the pair.

    A number added to all logits moves no token, hence the mean. 0 where fewer than two others are left.
    """
    error = (sut - oracle).double()
    kept = torch.ones(len(error), dtype=torch.bool)
    kept[list(pair)] = False
    rest = error[kept]
    return math.sqrt(2) * float(rest.std(correction=0)) if len(rest) > 1 else 0.0


def _in_units(swing: float, unit: float) -> float:
    if unit == 0:
        return 0.0 if swing == 0 else math.inf
    return abs(swing) / unit


def limit_of(positions: int) -> float:
    """Units past which one of `positions` positions is out of the noise; at least 1 position."""
    return -NormalDist().inv_cdf(ALARM / (2 * max(positions, 1) * CONTENDERS))


def noise_of_floor(floor: Floor, oracle: torch.Tensor, *, prompt: int, exact: bool) -> Noise:
    """The noise that a stored floor gives for oracle logits [T, V] of which the first `prompt` rows are prefill."""
    count = len(oracle)
    level = np.full((2, count), np.nan)
    position = np.arange(count)
    for at, bin_position in enumerate(position_range(position).tolist()):
        phase = "prefill" if at < prompt else "decode"
        key = Bin("free", "logits", None, "row", "rel_l2", phase, bin_position, -1)
        scale, gate = floor.scale(key), floor.gate(key)
        if scale is not None and gate is not None:
            level[:, at] = scale.typical, gate
    both = 1.0 if exact else math.sqrt(2)
    rms = oracle.double().square().mean(1).sqrt().numpy()
    known = int(np.isfinite(level[0]).sum())
    sentence = f"the floor of {floor.recipe.name} ({floor.source}), which covers {known} of {count} positions"
    unit, most = both * math.sqrt(2) * level * rms
    return Noise("floor", unit, limit_of(count), True, sentence, both * level[1], both * level[0], most)


def noise_of_emulation(emulation: torch.Tensor, exact: torch.Tensor, *, recipe: Recipe, exact_oracle: bool) -> Noise:
    """The noise between the recipe's emulation and exact arithmetic, both [T, V] on the ids that are compared.

    Raises UsageError when the emulation is exact arithmetic itself: its noise says nothing of another recipe.
    """
    if recipe.name in EXACT:
        raise UsageError(
            place="noise of the logits",
            expected="an emulation of the SUT's working recipe",
            found=f"one of {recipe.name}",
            next_step="Give the recipe that the SUT runs in, or a floor.",
        )
    swings = _swings(exact, emulation)
    pooled = math.sqrt(float(np.nanmean(swings**2))) if swings.size else math.nan
    # A near-tie in a router moves a row as a whole, in every correct engine of this recipe: its own unit then counts.
    rows = math.sqrt(2) * (emulation - exact).double().std(dim=1, correction=0).numpy()
    unit = np.maximum(pooled, rows)
    shown = np.abs(swings) / unit[:, None] if pooled > 0 else np.zeros((1, 1))
    limit = max(limit_of(len(exact)), float(np.nanmax(shown, initial=0.0)))
    both = 1.0 if exact_oracle else math.sqrt(2)
    sentence = (
        f"the emulation of {recipe.name} against exact arithmetic on the same {len(exact)} ids: {pooled:.3g} a pair of "
        f"logits, and more where it is further off as a whole; {limit:.1f} times that"
    )
    most = np.full(len(exact), both * float(np.nanmax(rows, initial=0.0)))
    return Noise("emulation", both * unit, limit, True, sentence, own=both * _rms(swings), most=most)


def noise_measured(oracle: torch.Tensor, sut: torch.Tensor, *, why: str) -> Noise:
    """The error of this SUT against this oracle as the unit; it judges nothing. why: there is no other."""
    swings = _swings(oracle, sut)
    finite = swings[np.isfinite(swings)]
    unit = math.sqrt(float(np.mean(finite**2))) if finite.size else math.nan
    sentence = f"the measured error itself, {unit:.3g} a pair of logits, which judges nothing ({why})"
    return Noise("measured", np.full(len(oracle), unit), limit_of(len(oracle)), False, sentence)


def distance_of_rows(oracle: torch.Tensor, other: torch.Tensor) -> NDArray[np.float64]:
    """[T] rel_l2 of every row of logits."""
    a, b = oracle.double(), other.double()
    return ((b - a).norm(dim=1) / a.norm(dim=1)).numpy()


def swing_by_position(oracle: torch.Tensor, other: torch.Tensor) -> NDArray[np.float64]:
    """[T] root mean square swing between the contenders of each position; NaN for a vocabulary of one."""
    return _rms(_swings(oracle, other))


def _rms(swings: NDArray[np.float64]) -> NDArray[np.float64]:
    if not swings.shape[1]:
        return np.full(len(swings), np.nan)
    return np.sqrt((swings**2).mean(1))


def _swings(oracle: torch.Tensor, other: torch.Tensor) -> NDArray[np.float64]:
    """[T, pairs] swings between all pairs of the contenders of the oracle; [T, 0] for a vocabulary of one."""
    best = oracle.double().topk(min(CONTENDERS, oracle.shape[1]), 1).indices
    error = (other.double() - oracle.double()).gather(1, best)
    a, b = torch.triu_indices(best.shape[1], best.shape[1], 1)
    return (error[:, a] - error[:, b]).numpy()


def is_exact(info: Any) -> bool:
    """Whether a runner computes in exact arithmetic, as far as floors are concerned."""
    return info.recipe.name in EXACT
