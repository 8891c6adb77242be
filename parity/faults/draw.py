"""Which layer, expert or strength does an instance of a fault have? Drawn from the fault's name and a seed alone."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


class Draw:
    """The same draws for the same name, seed and sizes, on every machine.

    hyper: the model's hyper-parameters; without `layers` or `experts` the model counts as one of one each.
    """

    def __init__(self, name: str, seed: int, hyper: Mapping[str, Any]) -> None:
        self._random = random.Random(f"{name}@{seed}")
        self._hyper = hyper

    def layer(self) -> int:
        return self._random.randrange(self._hyper.get("layers", 1))

    def layers(self) -> tuple[int, ...]:
        """Some of the layers, at least one, in order."""
        count = self._hyper.get("layers", 1)
        return tuple(sorted(self._random.sample(range(count), self._random.randint(1, count))))

    def expert(self) -> int:
        return self._random.randrange(self._hyper.get("experts", 1))

    def strength(self, low: float, high: float) -> float:
        """Log-uniform between two positive numbers, to three digits."""
        return float(f"{math.exp(self._random.uniform(math.log(low), math.log(high))):.3g}")

    def one_of(self, items: Sequence[Item]) -> Item:
        return self._random.choice(items)
