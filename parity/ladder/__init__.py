"""Experiments in their order, cheapest signal first, and what follows from them."""

from __future__ import annotations

from parity.ladder.calibrate import Opening, calibrate_apart, calibrate_floor
from parity.ladder.prove import Proof, prove, sites_of
from parity.ladder.replay import Replay
from parity.ladder.sweep import sweep

__all__ = [
    "Opening",
    "Proof",
    "Replay",
    "calibrate_apart",
    "calibrate_floor",
    "prove",
    "sites_of",
    "sweep",
]
