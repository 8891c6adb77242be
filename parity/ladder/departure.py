"""Is a distance to the recipe's emulation an error, or another order of the same sums?

A legitimate order moves each row of a stage a little, in no direction: nearer to exact arithmetic as often as further
from it, along the row as often as against it. An error has a direction. A scale moves rows along themselves; a lost
term or a wrong operand moves them away from exact arithmetic.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.ladder.replay import ReplayedSite

LEVEL = 1e-4
"""Chance that a stage whose rows move either way alike is said to depart: the level of the stored floors."""

LEAST_SHARE = 0.75
"""Of the rows that moved. A step of size s in no direction of the rounding error n of a row of W elements takes a share
Phi(s sqrt(W) / (2 |n|)) of rows further: at three quarters it is 0.67 standard deviations of what chance does to the
error of a row. However many rows there are, less is no fault."""

FURTHER, LARGER, SMALLER = "further from exact arithmetic", "along the exact row", "against the exact row"


@dataclass(frozen=True)
class Departure:
    """Rows of a slice that moved one way. slice: `the stage`, `expert 3`, `head 1`; share: of `rows`, which moved."""

    way: str
    slice: str
    share: float
    rows: int

    def __str__(self) -> str:
        return f"{100 * self.share:.3g} % of the {self.rows} rows of {self.slice} moved {self.way}"


def find_departure(site: ReplayedSite) -> Departure | None:
    """The direction in which the SUT's rows left the emulation's, in the slice that shows it most surely.

    site: replayed exactly and emulated, floating point; sut and both others [T, W], [T, S, W] or [T, H, W].
    Slices: all rows, each expert's, each head's. Rows that did not move count for neither way, and rows that are the
    same bits on all sides count once: one token's rows before any context enters move alike, whatever moves them.
    None where no slice shows a direction: its share is below LEAST_SHARE, or its chance for rows that move either way
    alike, a tail of the binomial distribution, is above LEVEL over all slices and ways.
    """
    if site.sut is None or site.oracle is None or site.emulated is None or not site.oracle.is_floating_point():
        return None
    width = site.oracle.shape[-1]
    sides = site.sut.tensor, site.oracle, site.emulated
    x, y, e = (side.detach().cpu().to(torch.float64).reshape(-1, width) for side in sides)
    further = ((x - y).square().sum(-1) - (e - y).square().sum(-1)).numpy()
    along = ((x - e) * y).sum(-1).numpy()
    distinct = _distinct(x, y, e)
    groups = {name: group & distinct for name, group in _groups(site, len(y)).items()}
    found: list[tuple[float, float, Departure]] = []
    for name, group in groups.items():
        for way, step in ((FURTHER, further[group]), (LARGER, along[group]), (SMALLER, -along[group])):
            moved = step[step != 0]
            share = float((moved > 0).mean()) if len(moved) else 0.0
            if share >= LEAST_SHARE:
                chance = log_chance(int((moved > 0).sum()), len(moved))
                found.append((chance, -share, Departure(way, name, share, len(moved))))
    if not found:
        return None
    chance, _, surest = min(found, key=lambda one: one[:2])
    return surest if chance <= math.log(LEVEL / (3 * len(groups))) else None


def log_chance(heads: int, tosses: int) -> float:
    """Natural logarithm of the chance that a fair coin shows `heads` or more in `tosses`; heads: over half of them."""
    first = math.lgamma(tosses + 1) - math.lgamma(heads + 1) - math.lgamma(tosses - heads + 1) - tosses * math.log(2)
    # Terms relative to the first fall at least as fast as a geometric series: what is left out is below rounding.
    total, term = 1.0, 1.0
    for more in range(heads, tosses):
        term *= (tosses - more) / (more + 1)
        total += term
        if term < 1e-17 * total:
            break
    return first + math.log(total)


def _distinct(*sides: torch.Tensor) -> NDArray[np.bool_]:
    """[R] mask of the first of the rows that are the same bits on every side."""
    seen: set[bytes] = set()
    first = np.zeros(len(sides[0]), bool)
    for row, parts in enumerate(zip(*(side.numpy() for side in sides), strict=True)):
        key = hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).digest()
        first[row] = key not in seen
        seen.add(key)
    return first


def _groups(site: ReplayedSite, rows: int) -> dict[str, NDArray[np.bool_]]:
    """[R] masks by name: all rows, and each expert's or each head's."""
    assert site.sut is not None
    assert site.oracle is not None
    groups = {"the stage": np.ones(rows, bool)}
    if site.sut.expert is not None:
        kind, labels = "expert", site.sut.expert.reshape(-1)
    elif site.oracle.ndim == 3:
        kind, labels = "head", np.tile(np.arange(site.oracle.shape[1]), site.oracle.shape[0])
    else:
        return groups
    return groups | {f"{kind} {number}": labels == number for number in np.unique(labels)}
