"""How often does a floor call a clean run wrong? Counted on runs that it was not calibrated on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parity.errors import ValueRangeError
from parity.floor.floor import Floor
from parity.floor.sample import FloorSample
from parity.records import HeldOut

CONFIDENCE = 0.95


@dataclass(frozen=True)
class WorstBin:
    """A clean run's slice that stands highest over its gate, in words; `over` above 1 is a false alarm."""

    over: float
    where: str
    unjudged: int


def worst_bin(floor: Floor, sample: FloorSample) -> WorstBin:
    """How far over the floor a run's worst slice is; 0 when every bin it has is exactly equal.

    Bins without a gate are counted in `unjudged`, those of `max_abs` are no gate of their own and left out.
    """
    worst, where, unjudged = 0.0, "", 0
    for key, value in sample.worst.items():
        if key.metric == "max_abs":
            continue
        gate = floor.gate(key)
        if gate is None:
            unjudged += 1
            continue
        over = 0.0 if value == 0 else math.inf if gate == 0 else value / gate
        if over > worst:
            site = key.stage if key.layer is None else f"L{key.layer:02d}.{key.stage}"
            worst, where = over, f"{site}, {key.kind} {key.metric}, {key.mode}, {key.phase}"
    return WorstBin(worst, where, unjudged)


def count_false_alarms(floor: Floor, samples: Sequence[FloorSample]) -> HeldOut:
    """Clean runs that the floor calls wrong. Raises ValueRangeError for a document that the floor has seen."""
    seen = set(floor.documents)
    again = sorted({sample.document for sample in samples} & seen)
    if again:
        raise ValueRangeError(
            place="held-out clean runs",
            expected="documents that the floor was not calibrated on",
            found=", ".join(again[:5]),
            next_step="Split the clean runs by document: two prompts of one document share their errors.",
        )
    found = [worst_bin(floor, sample) for sample in samples]
    alarms = [one for one in found if one.over > 1]
    return HeldOut(
        runs=len(samples),
        documents=len({sample.document for sample in samples}),
        alarms=len(alarms),
        upper_bound=upper_bound(len(alarms), len(samples)),
        confidence=CONFIDENCE,
        worst=max((one.over for one in found), default=0.0),
        worst_where=max(found, key=lambda one: one.over).where if found else "",
        unjudged=sum(one.unjudged for one in found),
    )


def upper_bound(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """One-sided upper confidence bound of a rate: the largest p under which so few events are not surprising.

    Source: Clopper & Pearson 1934, doi 10.1093/biomet/26.4.404; solved on the binomial sum itself. 1 without trials.
    """
    if not 0 <= events <= trials:
        raise ValueRangeError(
            place="rate of false alarms",
            expected="events between 0 and the number of trials",
            found=f"{events} of {trials}",
            next_step="Count each run once.",
        )
    if events == trials:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(events, trials, middle) > 1 - confidence else (low, middle)
    return high


def _at_most(events: int, trials: int, rate: float) -> float:
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(events + 1))
