"""Could an engine's number have entered this process? Floors are calibrated only where the answer is no."""

from __future__ import annotations

import sys

from parity.errors import RunnerError

ENGINES = ("triton", "parity_kernels")


def assert_pure() -> None:
    """Raise RunnerError when an engine's package is loaded in this process.

    A floor says what a *correct* implementation of the recipe shows; were the engine under test able to contribute to
    it, its fault would widen the very gate that should catch it. Replay does not need this, calibration does.
    """
    loaded = sorted(name for name in ENGINES if name in sys.modules)
    if loaded:
        raise RunnerError(
            place="calibration process",
            expected="no engine loaded: neither " + " nor ".join(ENGINES),
            found=", ".join(loaded),
            next_step="Calibrate in a process of its own, see parity.process_runner.",
        )
