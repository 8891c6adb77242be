"""What can this machine run, and what will be skipped and why?"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from parity.metrics import native_state

# Extra, the package that shows it is there, and what is lost without it.
EXTRAS = (
    ("hf", "transformers", "no HF oracle: parity demo and every comparison with transformers will not run"),
    ("triton", "triton", "no shipped engine: parity demo and the kernel tests will not run"),
    ("triton", "ml_dtypes", "no exact interpreter: kernels run on a CUDA device only"),
    ("plots", "matplotlib", "no figures: reports are written without them"),
    ("dev", "pytest", "no tests"),
)


@dataclass(frozen=True)
class Check:
    """One line of the doctor's findings. state: `ok`, `skip` (something is left out), or `bad` (no demo)."""

    name: str
    state: str
    found: str
    consequence: str = ""


def examine() -> tuple[Check, ...]:
    """Look at interpreter, libraries, processor and device; imports nothing that would decide how Triton runs."""
    checks = [
        Check("python", "ok", platform.python_version()),
        Check("torch", "ok", torch.__version__),
    ]
    for extra, package, consequence in EXTRAS:
        try:
            checks.append(Check(package, "ok", version(package)))
        except PackageNotFoundError:
            state = "skip" if extra in ("plots", "dev") else "bad"
            checks.append(Check(package, state, f"missing (extra `{extra}`)", consequence))
    checks.append(Check("processor", "ok", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"))
    comparator = native_state()
    slow = "" if comparator.kernel else "comparisons are correct but several times slower: install a C compiler"
    checks.append(Check("comparator", "ok" if comparator.kernel else "skip", comparator.state, slow))
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found = f"{torch.cuda.get_device_name()}, sm_{major}{minor}"
        state = "ok" if (major, minor) >= (8, 9) else "bad"
        checks.append(Check("device", state, found, "" if state == "ok" else "FP8 kernels need sm_89 or newer"))
        checks.append(Check("kernels", "ok", "compiled"))
    else:
        checks.append(Check("device", "skip", "no CUDA device", "tests marked gpu are skipped; nothing is timed"))
        checks.append(Check("kernels", "ok", "Triton's interpreter, bf16 and fp8 made exact by our shim"))
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    lost = "the CUDA C++ variant of add_rmsnorm is neither built nor tested"
    checks.append(Check("nvcc", "ok", nvcc) if nvcc else Check("nvcc", "skip", "not found", lost))
    return tuple(checks)
