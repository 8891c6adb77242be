"""How far are two sets of logits apart, as distributions over the next token?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import ShapeError

_BLOCK = 256  # positions widened to fp64 at a time


@dataclass(frozen=True)
class LogitDistance:
    """By position, [T]. kl: KL(oracle || sut) in nats, NaN where a side is not finite. top1: the largest logit is the
    same token's (ties to the lower id; False where a side is not finite). gap: how much larger the SUT's own choice is
    than the oracle's choice in the oracle's logits, negative or 0: a near-tie is near 0."""

    kl: NDArray[np.float64]
    top1: NDArray[np.bool_]
    gap: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.kl)


def logit_distance(*, oracle: torch.Tensor, sut: torch.Tensor) -> LogitDistance:
    """Compare two [T, V] logits of any floating dtype, in fp64; T may be 0. Raises ShapeError for other shapes.

    KL(p || q) = sum p (ln p - ln q) with p = softmax(oracle), q = softmax(sut); at least 0 up to rounding, clipped.
    """
    if oracle.shape != sut.shape or oracle.ndim != 2 or (len(oracle) and not oracle.shape[1]):
        raise ShapeError(
            place="logits of both sides",
            expected="two tensors of one shape [positions, vocabulary]",
            found=f"oracle {list(oracle.shape)}, sut {list(sut.shape)}",
            next_step="Compare the same positions of models of one vocabulary.",
        )
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for first in range(0, len(oracle), _BLOCK):
        y, x = (side[first : first + _BLOCK].to("cpu", torch.float64) for side in (oracle, sut))
        finite = torch.isfinite(y).all(1) & torch.isfinite(x).all(1)
        p, q = y.log_softmax(1), x.log_softmax(1)
        kl = (p.exp() * (p - q)).sum(1).clamp(min=0.0)
        ours, theirs = y.argmax(1), x.argmax(1)
        gap = (y.gather(1, theirs[:, None]) - y.gather(1, ours[:, None]))[:, 0]
        nan = torch.tensor(torch.nan, dtype=torch.float64)
        parts.append((torch.where(finite, kl, nan), (ours == theirs) & finite, torch.where(finite, gap, nan)))
    if not parts:
        return LogitDistance(np.zeros(0), np.zeros(0, bool), np.zeros(0))
    kl, top1, gap = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return LogitDistance(kl, top1, gap)
