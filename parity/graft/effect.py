"""What did a graft do to the symptom? Distance of the logits from the target's, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.align import align
from parity.errors import UsageError
from parity.metrics.bits import bits_differ
from parity.metrics.logits import logit_distance
from parity.trace import Trace


@dataclass(frozen=True)
class Effect:
    """Logits of a run before and after a graft, against those of the run it should come nearer to.

    kl_before, kl_after: mean KL(target || run) over positions, nats. kl_worst_before, kl_worst_after: largest.
    top1_before, top1_after: share of positions with the target's most likely token. positions: how many.
    changed: logits that changed a bit.
    """

    kl_before: float
    kl_after: float
    kl_worst_before: float
    kl_worst_after: float
    top1_before: float
    top1_after: float
    positions: int
    changed: int

    def line(self) -> str:
        """The same in words."""
        return (
            f"KL {self.kl_before:.3g} -> {self.kl_after:.3g} nats, top-1 {self.top1_before:.1%} -> "
            f"{self.top1_after:.1%} over {self.positions} positions; {self.changed} logits changed"
        )


def effect_on_logits(*, before: Trace, after: Trace, target: Trace, request: int = 0) -> Effect:
    """Compare the logits of two runs of one engine with the target's; raises UsageError where a trace has none."""
    own, grafted, wanted = (logits_of(trace, request) for trace in (before, after, target))
    if not own.shape == grafted.shape == wanted.shape:
        raise UsageError(
            place="logits around a graft",
            expected="the same positions and vocabulary in all three runs",
            found=f"{[list(x.shape) for x in (own, grafted, wanted)]}",
            next_step="Run all of them on the same request and schedule.",
        )
    first, second = (logit_distance(oracle=wanted, sut=sut) for sut in (own, grafted))
    return Effect(
        kl_before=_mean(first.kl),
        kl_after=_mean(second.kl),
        kl_worst_before=_largest(first.kl),
        kl_worst_after=_largest(second.kl),
        top1_before=_mean(first.top1),
        top1_after=_mean(second.top1),
        positions=len(first),
        changed=changed_bits(own, grafted),
    )


def logits_of(trace: Trace, request: int = 0) -> torch.Tensor:
    """[T, V] logits of one request in order of position; raises UsageError when the trace has none."""
    found = align(trace, "logits", None, request)
    if found is None:
        raise UsageError(
            place="logits around a graft",
            expected="logits among the captures",
            found="none",
            next_step="Capture the stage `logits`.",
        )
    return found.tensor


def agreement(ids: Sequence[int], truth: Sequence[int]) -> int:
    """Tokens from the start on in which a continuation is the oracle's: those before the first that is not."""
    return next((n for n, (a, b) in enumerate(zip(ids, truth, strict=False)) if a != b), min(len(ids), len(truth)))


def changed_bits(a: torch.Tensor, b: torch.Tensor) -> int:
    """Elements of two tensors of one shape and dtype whose bits differ."""
    return int(bits_differ(a, b.to(a.dtype)).sum())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _largest(values: np.ndarray) -> float:
    return float(values.max()) if len(values) else float("nan")
