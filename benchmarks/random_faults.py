"""On which run are the faults drawn that score the detectors, with which dice, and what does an edit of a site share?

Every fault draws its layer, stage, slice and strength; none shares a constant with a detector. What a stage would put
out is computed from the run's own inputs, so that its rounding noise is the recipe's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parity.ladder.replay import Replay, ReplayedSite

Tensor = torch.Tensor
EXPERT = ("moe.gate", "moe.up", "moe.down")
ROWS = ("attn.q", "attn.k", "attn.v", "attn.out", "attn.norm", "mlp.norm", "attn.context")
LINEAR = ("attn.q", "attn.k", "attn.v", "attn.out")
HEADS = ("attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.context")


class World:
    """A healthy run, its replay, and the dice. `site(stage)` draws a layer and is what a fault edits."""

    def __init__(self, replay: Replay, recipe: str) -> None:
        self.replay, self.recipe = replay, recipe
        self.hyper = dict(replay.trace.run.hyper)
        self.layers = replay.trace.run.layers
        self.rng = np.random.default_rng(0)

    def site(self, stage: str) -> ReplayedSite:
        layer = None if stage in ("logits", "final_norm", "embed.out") else int(self.rng.integers(self.layers))
        return self.replay.emulate(self.replay.site(layer, stage), self.recipe)

    def one(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def some(self, count: int, least: int, most: int) -> list[int]:
        """Between `least` and `most` different numbers below `count`."""
        size = int(self.rng.integers(least, min(most, count) + 1))
        return sorted(self.rng.choice(count, size, replace=False).tolist())

    def factor(self, least: float = 0.02, most: float = 4.0) -> float:
        """1 +- excess, the excess log-uniform; below 1 it divides."""
        excess = float(np.exp(self.rng.uniform(np.log(least), np.log(most))))
        return self.one(1 + excess, 1 / (1 + excess))

    def randn(self, like: Tensor) -> Tensor:
        size = like.square().mean().sqrt()
        return size * torch.from_numpy(self.rng.standard_normal(tuple(like.shape))).float()


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A site with its edited tensor. accepted: causes that name it rightly, the one wanted first."""

    site: ReplayedSite
    accepted: tuple[str, ...]
    about: str


Draw = Callable[[World], Drawn | None]


def edited(site: ReplayedSite, value: Tensor, **more: Any) -> ReplayedSite:
    """The site with another SUT tensor, in the SUT's dtype."""
    assert site.sut is not None
    return dataclasses.replace(site, sut=dataclasses.replace(site.sut, tensor=value.to(site.sut.tensor.dtype), **more))


def sut(site: ReplayedSite) -> Tensor:
    assert site.sut is not None
    return site.sut.tensor.float().clone()


def experts_of(site: ReplayedSite) -> np.ndarray:
    """[T, S], the expert of each row of a stage of expert rows."""
    assert site.sut is not None
    assert site.sut.expert is not None
    return site.sut.expert


def entered(site: ReplayedSite, name: str) -> Tensor:
    return site.inputs[name].float()


def older(w: World, site: ReplayedSite) -> Tensor:
    """The same stage of another layer: what a buffer that is used again still holds."""
    assert site.layer is not None
    return sut(w.replay.site((site.layer + 1) % w.layers, site.stage))


def row_numbers(site: ReplayedSite, height: int | None) -> dict[str, Any]:
    """The geometry an engine states: each row's number inside its expert, and the tile height where it is told."""
    assert site.sut is not None
    experts = site.sut.expert
    assert experts is not None
    flat, number = experts.reshape(-1), np.zeros(experts.size, np.int64)
    launch = np.repeat(site.sut.launch, experts.shape[1])
    for one in np.unique(launch):
        for e in np.unique(flat):
            at = (flat == e) & (launch == one)
            number[at] = np.arange(at.sum())
    geometry = {} if height is None else {"tile_m": height}
    captures = tuple(dataclasses.replace(c, geometry=geometry) for c in site.sut.captures)
    return {"row_in_expert": number.reshape(experts.shape), "captures": captures}
