"""What can be kept as a golden? Named tensors, or a trace; each brought into the one form that is stored and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from parity.compare.tensorfile import DTYPES
from parity.errors import GoldenError
from parity.golden.window import last_positions
from parity.trace import Trace, open_trace

ONLY = "value"
"""The name of a tensor that was handed over alone."""

_SPELLED = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Contents:
    """Either `tensors`, by name, on the CPU and contiguous, or a `trace`; never both."""

    tensors: Mapping[str, torch.Tensor] | None = None
    trace: Trace | None = None
    device: str = "cpu"

    @property
    def kind(self) -> str:
        """`tensors` or `trace`, as the file spells it."""
        return "tensors" if self.trace is None else "trace"


def contents_of(value: Any, *, positions: int | None = None) -> Contents:
    """A tensor, a mapping of names to tensors (numpy arrays too), a trace or a trace's folder, as contents.

    positions: of a trace, keep only the last so many positions of each request; None keeps all.
    Raises GoldenError for anything else, a name that is no text, a dtype that safetensors has not, `positions` of what
    is no trace, and a trace that is unfinished.
    """
    if isinstance(value, (str, Path)):
        value = open_trace(value)
    if _is_trace(value):
        if not value.complete:
            raise _refused("the trace", "a finished run", "one that did not reach its end", "Capture it again.")
        return Contents(trace=value if positions is None else last_positions(value, positions))
    if positions is not None:
        raise _refused("positions", "a trace to take them of", type(value).__name__, "Leave `positions` out.")
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = {ONLY: value}
    if not isinstance(value, Mapping):
        found = f"{type(value).__module__}.{type(value).__qualname__}"
        step = "Hand over the tensors that the test is about, by name."
        raise _refused("golden", "a tensor, a mapping of names to tensors, or a trace", found, step)
    plain = {_name(name): _plain(name, tensor) for name, tensor in value.items()}
    devices = [str(one.device) for one in value.values() if isinstance(one, torch.Tensor) and one.device.type != "cpu"]
    return Contents(tensors=plain, device=devices[0] if devices else "cpu")


def _is_trace(value: Any) -> TypeGuard[Trace]:
    return all(hasattr(value, name) for name in ("captures", "run", "complete", "tensor"))


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name or name == "__metadata__":
        raise _refused("golden", "names that are texts", repr(name)[:80], "Name the tensors otherwise.")
    return name


def _plain(name: str, tensor: Any) -> torch.Tensor:
    step = "Hand over dense values: dequantize, densify or unpack first."
    if isinstance(tensor, np.ndarray):
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(tensor))
        except TypeError:
            raise _refused(f"tensor {name!r}", "numbers", f"a numpy array of {tensor.dtype}", step) from None
    if not isinstance(tensor, torch.Tensor):
        raise _refused(f"tensor {name!r}", "a torch tensor or a numpy array", type(tensor).__name__, step)
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.dtype not in _SPELLED:
        what = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise _refused(f"tensor {name!r}", f"a dense tensor of one of {', '.join(_SPELLED.values())}", what, step)
    # A copy of its own: tensors that share memory cannot be stored, and the engine may reuse its buffers.
    return tensor.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous()


def spelled(dtype: torch.dtype) -> str:
    """The dtype as safetensors spells it."""
    return _SPELLED[dtype]


def _refused(place: str, expected: str, found: str, step: str) -> GoldenError:
    return GoldenError(place=place, expected=expected, found=found, next_step=step)
