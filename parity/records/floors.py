"""What is known of a noise floor? Its false alarms on clean runs, and the weakest damage that it sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOut:
    """False alarms of a noise floor, counted on clean runs of documents that it was not calibrated on.

    alarms: runs with any slice over its gate. upper_bound: of the rate of such runs, one-sided, at `confidence`.
    worst, worst_where: the highest slice over its gate in any of them. unjudged: bins of theirs without a gate.
    """

    runs: int
    documents: int
    alarms: int
    upper_bound: float
    confidence: float
    worst: float
    worst_where: str
    unjudged: int


@dataclass(frozen=True)
class Power:
    """The weakest planted damage that a gate sees in clean runs, at every place tried.

    kind: of the slice it was planted in. damage: `lost rows` (share), `scale` (relative), `wrong elements` (share) or
        `swapped rows` (share).
    strength: the weakest seen; None: NO_POWER, the strongest tried (`tried`) was not seen at some place.
    """

    mode: str
    stage: str
    kind: str
    damage: str
    strength: float | None
    tried: float
    rows: int
