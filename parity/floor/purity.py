"""Is this process fit to calibrate a floor: has no engine under test had a chance to lend it a number?"""

from __future__ import annotations

import sys

from parity.errors import UsageError

ENGINES = ("triton", "parity_kernels", "llama_cpp", "vllm")


def refuse_engine() -> None:
    """Raise UsageError when an engine's modules are loaded in this process.

    A floor comes from the recipe's emulation alone; an emulation that shares a process with the engine may share its
    code (an imported dequantizer, a patched operator) without anybody noticing.
    """
    loaded = [name for name in ENGINES if name in sys.modules]
    if loaded:
        raise UsageError(
            place="calibration of a noise floor",
            expected="a process without the engine under test",
            found=f"loaded: {', '.join(loaded)}",
            next_step="Calibrate in a process of its own and pass the floor as a file.",
        )
