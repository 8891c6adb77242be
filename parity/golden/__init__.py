"""Goldens: small stored results that a later run is held against, with the floor they are judged by.

    golden = make_golden(contents_of({"y": y}), test="test_y", name=None, floor=golden_floor(None))
    write_golden(path, golden)
    check = check_golden(read_golden(path), contents_of({"y": y_now}), floor=golden_floor(None))

The pytest plugin (`parity/pytest_plugin`) does this for a test suite; docs/goldens.md says how.
"""

from __future__ import annotations

from parity.golden.calibration import Calibration, MeasuredFloor, combine, measure_floor
from parity.golden.check import GoldenCheck, check_golden, floor_label, make_golden, numerics_here, with_environment
from parity.golden.contents import Contents, contents_of
from parity.golden.file import MAX_BYTES, Golden, read_golden, write_golden
from parity.golden.floors import GoldenFloor, golden_floor

__all__ = [
    "MAX_BYTES",
    "Calibration",
    "Contents",
    "Golden",
    "GoldenCheck",
    "GoldenFloor",
    "MeasuredFloor",
    "check_golden",
    "combine",
    "contents_of",
    "floor_label",
    "golden_floor",
    "make_golden",
    "measure_floor",
    "numerics_here",
    "read_golden",
    "with_environment",
    "write_golden",
]
