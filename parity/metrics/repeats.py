"""How many rows of a slice err independently, when some stand at the end of the same tokens?

Text that has fallen into a loop feeds a stage nearly the same row again and again. Rounding then errs the same way in
each: the error of their mean does not shrink with their number, and what two correct implementations round apart, they
round apart in all of them. A scale that was measured on as many rows of differing text is no scale for such a slice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REACH = 16
"""Tokens that must agree. Attention sees further back, but rows of a loop are alike after a few rounds; texts that
floors are made from repeat so many only in boilerplate, and keep their number of rows."""

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd: Knuth, TAOCP 3, 6.4
_WITHIN = 2**0.5
"""A range of sizes is an octave: what makes less than half of one of difference is within its scatter."""


def contexts(ids: NDArray[np.integer]) -> NDArray[np.uint64]:
    """[T] a number for each position's last REACH tokens, its own included: equal for equal tokens, never 0.

    ids: [T]. A position that has fewer before it counts the missing ones as a token of their own.
    """
    padded = np.concatenate(
        [np.zeros(REACH - 1, np.uint64), np.asarray(ids, np.int64).astype(np.uint64) + np.uint64(2)]
    )
    found = np.zeros(len(ids), np.uint64)
    for at in range(REACH):
        found = (found ^ (found >> np.uint64(29))) * _MIX + padded[at : at + len(ids)]
    return (found * _MIX) | np.uint64(1)


def of_slot(context: NDArray[np.uint64], slot: NDArray[np.integer]) -> NDArray[np.uint64]:
    """The same number for a row of a token in that slot: other experts computed the others. 0 stays 0."""
    mixed = (context ^ (np.asarray(slot, np.int64).astype(np.uint64) + np.uint64(1))) * _MIX | np.uint64(1)
    return np.where(context == 0, context, mixed)


def independent_by_group(
    context: NDArray[np.uint64], group: NDArray[np.integer], names: NDArray[np.integer]
) -> NDArray[np.float64]:
    """`independent_rows` of each group of rows. context, group: [n]; names: the groups asked for."""
    return np.array([independent_rows(context[group == name]) for name in names.tolist()], np.float64)


def independent_rows(context: NDArray[np.uint64]) -> float:
    """How many independent rows have a mean as uncertain as that of these; their number where few repeat.

    context: [n], equal where rows repeat one another, 0 for a row of which it is not known: it repeats none.
    Groups of m_g rows, each with one error: n^2 / sum of m_g^2 (Kish 1965, Survey Sampling, 8.2).
    """
    rows = len(context)
    known = context[context != 0]
    if not len(known):
        return float(rows)
    _, sizes = np.unique(known, return_counts=True)
    effective = rows**2 / float((sizes.astype(np.float64) ** 2).sum() + rows - len(known))
    return float(rows) if effective * _WITHIN >= rows else effective
