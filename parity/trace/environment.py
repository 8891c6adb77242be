"""What ran it? The environment that goes into every trace."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from parity.records import Environment


def capture_environment(*, device: str | torch.device = "cpu", interpreted: bool = False) -> Environment:
    """The environment of this process.

    device: where the model runs; a CUDA device is recorded with its name. interpreted: Triton kernels run in its
    interpreter. Versions are read from the installed packages' metadata: nothing is imported, since importing triton
    decides between interpreter and compiler for the whole process.
    """
    device = torch.device(device)
    name = str(device)
    if device.type == "cuda" and torch.cuda.is_available():
        name = f"{device} ({torch.cuda.get_device_name(device)})"
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        triton=_installed("triton"),
        transformers=_installed("transformers"),
        platform=platform.platform(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        device=name,
        interpreted=interpreted,
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
