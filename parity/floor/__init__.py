"""The error that a correct implementation of a precision recipe shows, and the gate above which it is not noise."""

from __future__ import annotations

from parity.floor.bins import FLIPPED, GATED, Bin, position_range, size_range
from parity.floor.floor import Floor, calibrate
from parity.floor.purity import refuse_engine
from parity.floor.sample import FloorSample

__all__ = [
    "FLIPPED",
    "GATED",
    "Bin",
    "Floor",
    "FloorSample",
    "calibrate",
    "position_range",
    "refuse_engine",
    "size_range",
]
