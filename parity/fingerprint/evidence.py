"""When does a pattern explain an error? The rules that every detector shares, each with its derivation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import squared_distance, squared_norm

Array = NDArray[np.float64]
Detector = Callable[[ErrorField], Fingerprint | None]

LEAST_SHARE = 0.5
"""A pattern is named when it explains more of the error's energy, where it claims to hold, than everything else
together. Noise has no part in any pattern: k numbers fitted to n independent errors explain k/n of them."""

UNRELATED = 0.5
"""What a pattern that says only *where* the values are not the oracle's explains there. Of an error d = x - y whose x
is unrelated to y and of its size, the half |y|^2 of |d|^2 is explained, and x itself is not."""

WRONG_ERROR, WRONG_COSINE = 0.5, 0.9
"""A row that is not the oracle's at all: relative error over 0.5 *and* another direction. Noise of FP8 leaves rel_l2
below 0.1 (half a step of E4M3 is 2^-4), a factor leaves the direction."""

STEP_UP = 4.0
"""Ratio of the mean squared errors of two stretches of tokens that makes a step: rows of one recipe keep their errors
within a factor of 2."""

TELLING = 64
"""Rows of which one half or the other tells whether a prediction of all rows is worth computing."""

FITTED = 8
"""Elements wanted for each fitted number: it then takes 1/8 of a pure noise's energy, a quarter of LEAST_SHARE."""


def reads_values(detect: Detector) -> Detector:
    """A detector of floating fields: silent on ids, and where there is no error."""

    @wraps(detect)
    def guarded(field: ErrorField) -> Fingerprint | None:
        return None if field.ids or field.silent else detect(field)

    return guarded


def share_explained(field: ErrorField, residual: float) -> float:
    """1 - |residual after the pattern|^2 / |error|^2; at most 1, 0 for a field without a finite error.

    0 as well for a pattern that does not explain most of the SUT itself: where the SUT is much smaller than the oracle
    the error is nearly -y, and anything small would "explain" it.
    """
    energy = field.energy
    if not energy > 0 or not residual <= (1 - LEAST_SHARE) * field.size:
        return 0.0
    return 1.0 - residual / energy


def share_after(field: ErrorField, predicted: torch.Tensor) -> float:
    """Share explained by predicting the whole SUT tensor. predicted: [rows, width] fp32."""
    return share_explained(field, squared_distance(field.x, predicted))


def telling_rows(field: ErrorField) -> torch.Tensor:
    """Rows on which a prediction of every row is tried first: TELLING evenly spread ones, and as many with the largest
    errors. One that explains half of the field's error leaves less than that error in one of the two."""
    if field.rows <= 2 * TELLING:
        return torch.arange(field.rows)
    worst = torch.from_numpy(np.argpartition(-field.sums.dd.sum(1), TELLING)[:TELLING])
    return torch.cat([torch.linspace(0, field.rows - 1, TELLING).round().long(), worst])


def worth_trying(field: ErrorField, rows: torch.Tensor, predicted: torch.Tensor) -> bool:
    """Whether a prediction of the telling rows leaves less than the error in either half of them."""
    x, d = field.x[rows], field.d[rows]
    halves = [slice(0, None)] if len(rows) <= TELLING else [slice(0, TELLING), slice(TELLING, None)]
    return any(squared_distance(x[part], predicted[part]) <= squared_norm(d[part]) for part in halves)


def factor_gain(dy: Array, yy: Array) -> Array:
    """Energy that the best factor of y takes from d in each group: (d.y)^2 / (y.y), 0 where y is 0."""
    return np.divide(dy * dy, yy, out=np.zeros_like(dy), where=yy > 0)


def factor(dy: Array, yy: Array) -> Array:
    """Least-squares factor of the SUT on the oracle in each group; 1 where y is 0."""
    return 1.0 + np.divide(dy, yy, out=np.zeros_like(dy), where=yy > 0)


def collinear(yy: Array, dy: Array, dd: Array) -> NDArray[np.bool_]:
    """Where a multiple of y is most of the SUT's own energy too (LEAST_SHARE), or the SUT is 0 to fp32."""
    xx = np.maximum(yy + 2 * dy + dd, 0.0)
    return ((yy + dy) ** 2 >= LEAST_SHARE * xx * yy) | (xx <= 1e-12 * yy)


def cosines(yy: Array, dy: Array, dd: Array) -> Array:
    """Cosine between both sides in each group, from inner products of y and d; 0 where either side is 0."""
    xx = np.maximum(yy + 2 * dy + dd, 0.0)
    scale = np.sqrt(yy * xx)
    return np.divide(yy + dy, scale, out=np.zeros_like(yy), where=scale > 0)


def wrong_rows(field: ErrorField) -> NDArray[np.bool_]:
    """[rows], rows that are not the oracle's at all (WRONG_ERROR, WRONG_COSINE), or not finite throughout. A row whose
    oracle is zero has no direction and counts as right."""
    yy, dy, dd = field.sums.rows
    wrong = (dd > WRONG_ERROR**2 * yy) & (cosines(yy, dy, dd) < WRONG_COSINE) & (yy > 0)
    if field.nonfinite is not None:
        wrong |= field.nonfinite.all(1).numpy()
    return wrong


def right_rows(field: ErrorField) -> NDArray[np.bool_]:
    """[rows], rows at half the error or less of what makes a row wrong, and finite."""
    yy, _, dd = field.sums.rows
    right = dd <= (WRONG_ERROR / 2) ** 2 * yy
    return right if field.nonfinite is None else right & ~field.nonfinite.any(1).numpy()


def change_point(error: Array) -> int:
    """Where a sequence of squared errors steps up: the split at which two levels of its logarithm fit best.

    error: [T], not negative. Returns the first index of the later part, 0 where its level is not the higher one by a
    factor of STEP_UP (then there is no step). What is below 1e-4 of the largest 5 % (1e-6 of the largest, where fewer
    have any error) counts as that, as zero does.
    """
    if len(error) < 4 or not error.max() > 0:
        return 0
    level = np.log(np.maximum(error, max(1e-4 * np.quantile(error, 0.95), 1e-6 * error.max())))
    total, count = np.cumsum(level), np.arange(1, len(level) + 1)
    before = total[:-1] / count[:-1]
    after = (total[-1] - total[:-1]) / (len(level) - count[:-1])
    # Between-part sum of squares: its maximum is the least-squares split.
    split = int((count[:-1] * (len(level) - count[:-1]) * (after - before) ** 2 * (after > before)).argmax())
    return split + 1 if after[split] - before[split] > np.log(STEP_UP) else 0


def listed(numbers: Sequence[int], most: int = 8) -> str:
    """`3`, `1, 2 and 5`, or the first few and how many more."""
    if len(numbers) > most:
        return ", ".join(map(str, numbers[:most])) + f" and {len(numbers) - most} more"
    texts = [str(n) for n in numbers]
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + f" and {texts[-1]}" if texts else "none"


def percent(share: float) -> str:
    """A share for a sentence."""
    return f"{100 * share:.1f} %"


def power_of_two_steps(start: int, least: int = 16, most: int = 65536) -> list[int]:
    """Powers of two from `least` to `most` that divide `start`, largest first; chunk and tile lengths are such."""
    return [size for n in range(int(np.log2(most)), 0, -1) if least <= (size := 1 << n) and start % size == 0]
