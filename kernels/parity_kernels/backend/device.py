"""Where do kernels run in this process: compiled on a CUDA device, or in Triton's interpreter on the CPU?

The decision is taken once, before `import triton`, because `@triton.jit` looks at TRITON_INTERPRET when it decorates:
a process holds interpreted kernels or compiled ones, never both.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import sys

import torch

INTERPRET_VARIABLE = "TRITON_INTERPRET"
FUSION_VARIABLE = "TRITON_DEFAULT_FP_FUSION"
_TRUE = ("1", "true", "on", "yes", "y")  # what triton.knobs reads as true


def choose_backend() -> bool:
    """Decide interpreted (True) or compiled (False) and leave the decision in the environment.

    A value of TRITON_INTERPRET that the caller has set is respected ("0" without a GPU is how kernels are compiled
    ahead of time); unset, kernels are interpreted exactly when no CUDA device is present.
    """
    if INTERPRET_VARIABLE not in os.environ and not torch.cuda.is_available():
        os.environ[INTERPRET_VARIABLE] = "1"
    # Whether a * b + c rounds once or twice. Its default changes in triton 3.10: pinned, and recorded below.
    os.environ.setdefault(FUSION_VARIABLE, "1")
    return interpreted()


def interpreted() -> bool:
    """True when kernels of this process run in Triton's interpreter (tile sizes are larger there)."""
    return os.environ.get(INTERPRET_VARIABLE, "0").lower() in _TRUE


def default_device() -> torch.device:
    """The device an engine puts its tensors on: the CPU when interpreted, else the current CUDA device."""
    return torch.device("cpu") if interpreted() else torch.device("cuda")


@functools.cache
def environment_facts() -> dict[str, str]:
    """What a trace or a benchmark should say about the machine and the libraries under the kernels; values are text.

    Sources: package metadata (nothing is imported for it), torch.cuda, /proc/cpuinfo.
    """
    facts = {
        "backend": "triton-interpreter" if interpreted() else "triton-compiled",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "torch_threads": str(torch.get_num_threads()),
    }
    for package in ("torch", "triton", "numpy", "ml_dtypes"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "absent"
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_capability"] = ".".join(str(part) for part in torch.cuda.get_device_capability())
        facts["cuda"] = torch.version.cuda or "unknown"
    facts[FUSION_VARIABLE] = os.environ.get(FUSION_VARIABLE, "unset")
    return facts


def _cpu_name() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as lines:
                for line in lines:
                    if line.startswith("model name"):
                        return line.split(":", 1)[1].strip()
        except OSError:
            pass
    return platform.processor() or "unknown"
