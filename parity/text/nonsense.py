"""From which token on would the oracle not have believed a word of it?"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np

from parity.errors import UsageError

WINDOW = 16


def first_nonsense(logprobs: Sequence[float], *, vocabulary: int, window: int = WINDOW) -> int | None:
    """First token of the first window whose mean surprisal exceeds half that of a uniform guess, ln(vocabulary) / 2.

    logprobs: [N] natural logarithms of the oracle's probability of each token of the text. A healthy model's own text
    lies near its training loss (1 to 3 nats), a uniform guess at ln(vocabulary) (7 to 12): half is between them.
    Returns None for text that stays below, or shorter than the window. Raises UsageError for positive or NaN values.
    """
    values = np.asarray(logprobs, np.float64)
    if (values > 1e-6).any() or np.isnan(values).any():
        raise UsageError(
            place="log-probabilities",
            expected="natural logarithms of probabilities, none above 0",
            found=f"{values[(values > 1e-6) | np.isnan(values)][0]}",
            next_step="Pass what the oracle gives each token of the text.",
        )
    if len(values) < window:
        return None
    sums = np.convolve(np.maximum(values, -1e3), np.ones(window), "valid")
    over = np.flatnonzero(-sums / window > log(vocabulary) / 2)
    return int(over[0]) if len(over) else None
