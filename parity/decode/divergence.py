"""Where do two greedy choices part, what did both sides see there, and is it a near-tie?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.decode.noise import CONTENDERS, Noise, own_unit


@dataclass(frozen=True)
class Choice:
    """One candidate of one side: its id, its logit and its log-probability (nats)."""

    id: int
    logit: float
    logprob: float


@dataclass(frozen=True)
class Parting:
    """One position at which both sides prefer another token.

    token: number of the new token, from 0; None inside the prompt. position: absolute, of the row of logits.
    oracle, sut: what each prefers there; sut None where the SUT ended its text. oracle_best, sut_best: their largest
        logits. gap: how much the oracle prefers its own token to the SUT's; swing: how far the SUT's logits of the two
        moved against each other, at least the gap.
    units: the swing in units of the noise, None where there is no unit. near_tie: within the noise; None where that is
        not known: there is no unit, or the row as a whole is further off than usual, though not out of the floor.
    """

    token: int | None
    position: int
    phase: str
    oracle: int
    sut: int | None
    oracle_best: tuple[Choice, ...]
    sut_best: tuple[Choice, ...]
    gap: float
    swing: float
    units: float | None
    near_tie: bool | None

    def line(self) -> str:
        """The same in words."""
        where = f"position {self.position} ({self.phase})" + ("" if self.token is None else f", new token {self.token}")
        took = "ends" if self.sut is None else f"prefers {self.sut}"
        size = "no unit for it" if self.units is None else f"{self.units:.2g} units of noise"
        if self.near_tie is None and self.units is not None:
            size += " in a row that is further off than usual as a whole"
        what = f"the oracle prefers {self.oracle} by {self.gap:.3g}, the SUT {took}"
        return f"{where}: {what}; swing {self.swing:.3g}, {size}"


def part_at(
    position: int, oracle: torch.Tensor, sut: torch.Tensor, *, noise: Noise, prompt: int, sut_id: int | None = -1,
    oracle_id: int = -1,
) -> Parting:  # fmt: skip
    """Both sides at one position of their logits [T, V]; ids: chosen there, -1 for the largest logit's."""
    y, x = oracle[position].double(), sut[position].double()
    theirs = int(y.argmax()) if oracle_id < 0 else oracle_id
    ours = int(x.argmax()) if sut_id is None or sut_id < 0 else sut_id
    gap = float(y[theirs] - y[ours])
    swing = gap + float(x[ours] - x[theirs])
    units = noise.units(position, swing)
    # A side that ended although its own largest logit goes on left no token to weigh.
    known = not math.isnan(units) and not (sut_id is None and ours == theirs)
    return Parting(
        token=position - prompt + 1 if position >= prompt - 1 else None,
        position=position,
        phase="prefill" if position < prompt else "decode",
        oracle=theirs,
        sut=None if sut_id is None else ours,
        oracle_best=best_of(y),
        sut_best=best_of(x),
        gap=gap,
        swing=swing,
        units=units if known else None,
        near_tie=noise.near_tie(position, swing, own_unit(y, x, (theirs, ours))) if known else None,
    )


def best_of(logits: torch.Tensor) -> tuple[Choice, ...]:
    """The CONTENDERS largest of [V] logits, largest first, with log-probabilities."""
    logprobs = logits.double().log_softmax(0)
    best = logits.topk(min(CONTENDERS, len(logits))).indices.tolist()
    return tuple(Choice(number, float(logits[number]), float(logprobs[number])) for number in best)


def partings(
    oracle: torch.Tensor, sut: torch.Tensor, top1: NDArray[np.bool_], *, noise: Noise, prompt: int
) -> tuple[Parting, ...]:
    """Every position where the largest logits are other tokens', in order; rows that are not finite are left out."""
    finite = (torch.isfinite(oracle).all(1) & torch.isfinite(sut).all(1)).numpy()
    return tuple(part_at(at, oracle, sut, noise=noise, prompt=prompt) for at in np.flatnonzero(~top1 & finite).tolist())
