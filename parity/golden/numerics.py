"""On what do the bits of a result depend besides the code? The instruction set, the device, the library versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version

import torch

from parity.records import Environment

FEATURES = ("amx_tile", "avx512_bf16", "vnni")
"""Matrix and bf16 instructions that oneDNN picks by itself; torch's `AVX512` says nothing of them."""

SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Environment variables that choose other instructions."""

Numerics = Mapping[str, str]
"""One environment, as far as it decides bits: equal ones are the same environment."""


def numerics_of(environment: Environment, *, here: bool) -> dict[str, str]:
    """What decides bits in an environment. here: it is this process, so that its CPU can be asked for more.

    Threads belong to it: a sum is split among them.
    """
    found = {
        "machine": platform.machine() if here else "",
        "isa": environment.cpu_capability,
        "device": environment.device,
        "threads": str(environment.threads),
        "interpreted": str(environment.interpreted),
        "torch": environment.torch,
        "triton": environment.triton or "",
        "transformers": environment.transformers or "",
    }
    if here:
        found["numpy"] = version("numpy")
        found["features"] = " ".join(name for name in FEATURES if _has(name))
        found["settings"] = " ".join(f"{name}={os.environ[name]}" for name in SETTINGS if os.environ.get(name))
    return {name: value for name, value in found.items() if value}


def _has(feature: str) -> bool:
    ask = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return bool(ask is not None and ask())


def difference_words(*, golden: Numerics, here: Numerics) -> str:
    """`isa AVX2 -> AVX512, torch 2.11.0 -> 2.13.0`; empty for the same environment."""
    return ", ".join(
        f"{name} {golden.get(name, 'none')} -> {here.get(name, 'none')}"
        for name in sorted({*golden, *here})
        if golden.get(name) != here.get(name)
    )
