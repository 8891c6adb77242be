"""Where do kernels run? Importing this decides, before triton is imported, and makes the interpreter exact."""

from __future__ import annotations

from parity_kernels.backend.device import choose_backend, default_device, environment_facts, interpreted
from parity_kernels.backend.interpreter import install

choose_backend()
install()

__all__ = ["default_device", "environment_facts", "interpreted"]
