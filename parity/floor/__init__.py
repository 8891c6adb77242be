"""The error that a correct implementation of a precision recipe shows, and the gate above which it is not noise."""

from __future__ import annotations

from parity.floor.bins import FLIPPED, GATED, MODES, Bin, position_range, size_range
from parity.floor.calibration import calibrate
from parity.floor.derived import DerivedFloor, derive_floor
from parity.floor.floor import Floor
from parity.floor.heldout import count_false_alarms, upper_bound, worst_bin
from parity.floor.purity import refuse_engine
from parity.floor.sample import FloorSample

NoiseFloor = Floor | DerivedFloor
"""What a comparison is judged by: calibrated on clean runs, or derived from a dtype's arithmetic."""

__all__ = [
    "FLIPPED",
    "GATED",
    "MODES",
    "Bin",
    "DerivedFloor",
    "Floor",
    "FloorSample",
    "NoiseFloor",
    "calibrate",
    "count_false_alarms",
    "derive_floor",
    "position_range",
    "refuse_engine",
    "size_range",
    "upper_bound",
    "worst_bin",
]
