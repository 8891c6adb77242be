"""What damage is planted to learn what a gate sees? Four kinds, of any strength, in one slice of a clean tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """A slice of a flattened tensor [N, W]: row numbers, and columns from left to right."""

    kind: str
    rows: NDArray[np.int64]
    columns: tuple[int, int]


@dataclass(frozen=True)
class Damage:
    """A way to spoil a part. strongest: the most that is tried; 1 is all of it for a share. apply(x, part, strength,
    random) changes x [N, W] in place."""

    name: str
    strongest: float
    apply: Callable[[torch.Tensor, Part, float, np.random.Generator], None]


def _lose_rows(x: torch.Tensor, part: Part, share: float, random: np.random.Generator) -> None:
    """Zero a share of the rows, at least one."""
    count = max(1, round(share * len(part.rows)))
    rows = random.choice(part.rows, count, replace=False)
    x[torch.from_numpy(rows), part.columns[0] : part.columns[1]] = 0


def _scale(x: torch.Tensor, part: Part, error: float, random: np.random.Generator) -> None:
    """Multiply all of it by 1 + error."""
    x[torch.from_numpy(part.rows), part.columns[0] : part.columns[1]] *= 1 + error


def _spoil_elements(x: torch.Tensor, part: Part, share: float, random: np.random.Generator) -> None:
    """Negate a share of the elements, at least one."""
    width = part.columns[1] - part.columns[0]
    count = max(1, round(share * len(part.rows) * width))
    chosen = random.choice(len(part.rows) * width, count, replace=False)
    at = torch.from_numpy(part.rows[chosen // width]), torch.from_numpy(part.columns[0] + chosen % width)
    x[at] = -x[at]


def _swap_rows(x: torch.Tensor, part: Part, share: float, random: np.random.Generator) -> None:
    """Pass a share of the rows on to the next of them in a ring, two at least; nothing where there is one row only."""
    if len(part.rows) < 2:
        return
    count = min(max(2, round(share * len(part.rows))), len(part.rows))
    rows = torch.from_numpy(random.choice(part.rows, count, replace=False))
    columns = slice(*part.columns)
    x[rows, columns] = x[rows.roll(1), columns].clone()


DAMAGES = (
    Damage("lost rows", 1.0, _lose_rows),
    Damage("scale", 0.5, _scale),
    Damage("wrong elements", 0.5, _spoil_elements),
    Damage("swapped rows", 1.0, _swap_rows),
)


def weakest_seen(seen: Callable[[float], bool], *, least: float, strongest: float, steps: int = 6) -> float | None:
    """The weakest strength that is seen, by bisection of its logarithm between `least` and `strongest`.

    Assumed: what is seen at one strength is seen at any greater. The result is seen, and lies within a factor of
    (strongest / least) ** (1 / 2**steps) of one that is not. None when the strongest is not seen.
    """
    if not seen(strongest):
        return None
    if least >= strongest or seen(least):
        return min(least, strongest)
    low, high = least, strongest
    for _ in range(steps):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high
