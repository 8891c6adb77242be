"""What is told of a tensor, that it is recognized in another process? A digest and a few numbers, never values.

Two runners answer here: the engine under test tells what its kernels read (`BindingReport`), the oracle tells what the
checkpoint holds and where each tensor belongs (`StoredTensor`). Both are probed by the same function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from parity.audit.grid import e4m3_scale, significant_bits
from parity.audit.order import mark_rows

SAMPLES = 64
"""Elements kept of each tensor; enough to see one rounding or one factor, too few to cross a border slowly."""

BF16_ROUNDING = 2.0**-8
"""Largest relative error of rounding to bf16, which has 8 bits of significand; fp16 and fp32 round finer."""


@dataclass(frozen=True)
class TensorProbe:
    """One tensor, told without its values.

    digest: of the values as fp32 in row-major order, so that a dtype that holds them exactly changes nothing.
    unordered: of the same values whatever their order: equal for a transposed or permuted copy.
    rms, largest: of all elements, 0 when there are none; NaN where the tensor holds one. samples: evenly spaced
    elements of the flattened tensor. rows, columns: marks of a matrix, see parity/audit/order.py; empty of others.
    significant, e4m3_scale: the narrower grid that the values lie on, see parity/audit/grid.py.
    """

    shape: tuple[int, ...]
    dtype: str
    digest: str
    unordered: str
    rms: float
    largest: float
    samples: tuple[float, ...]
    rows: bytes = b""
    columns: bytes = b""
    significant: int = 24
    e4m3_scale: str = ""


def probe_tensor(tensor: torch.Tensor) -> TensorProbe:
    """Probe a tensor of any shape and any float dtype up to fp32 (E4M3 included); of none, the digest of nothing."""
    values = tensor.detach().to("cpu", torch.float32).contiguous()
    flat = values.flatten()
    bits = flat.view(torch.int32).to(torch.int64)
    some = flat[torch.linspace(0, max(len(flat) - 1, 0), min(SAMPLES, len(flat))).long()]
    return TensorProbe(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        digest=hashlib.blake2b(values.numpy().tobytes(), digest_size=16).hexdigest(),
        unordered=f"{int(bits.sum())}:{int((bits * bits).sum())}",
        rms=float(flat.double().square().mean().sqrt()) if len(flat) else 0.0,
        largest=float(flat.abs().max()) if len(flat) else 0.0,
        samples=tuple(some.tolist()),
        rows=mark_rows(values),
        columns=mark_rows(values.T) if values.ndim == 2 else b"",
        significant=significant_bits(flat.view(torch.int32)),
        e4m3_scale=e4m3_scale(values) if tensor.element_size() > 1 else "",
    )


@dataclass(frozen=True)
class Piece:
    """One weight, or its scales, as the engine reads it: one matrix or vector, in the checkpoint's orientation.

    layer, stage, expert: the operation that reads it. kind: `weight` or `scale`. reads: how often it was handed to that
    operation; None where that is not known. claims: the checkpoint's name for it, where the engine says one.
    by: `kernel` when the kernel was seen to read it, `call` when it was handed to an operation whose kernel read
    something else or was not reached, `held` when it was only found in memory.
    """

    layer: int | None
    stage: str
    expert: int | None
    kind: str
    probe: TensorProbe
    reads: int | None = None
    by: str = "kernel"
    claims: str | None = None


@dataclass(frozen=True)
class Observed:
    """A hyper-parameter as an operation was told it, and the places that were told so."""

    name: str
    value: Any
    places: tuple[str, ...]


@dataclass(frozen=True)
class BindingReport:
    """What one short forward pass of the engine read: its weights and the values its operations were told.

    steps: how many steps the pass had: each weight is read once in each. bound: the checkpoint tensors that the loader
    says it bound, None where it does not say.
    rewritten: what kernels read in place of the piece that their operation was handed: an operation may transform a
    weight together with its input, and be right; only a replay of the stage tells.
    """

    pieces: tuple[Piece, ...]
    observed: tuple[Observed, ...] = ()
    steps: int = 0
    bound: frozenset[str] | None = None
    rewritten: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the checkpoint as the oracle reads it.

    places: (layer, stage) of each operation that must read it; two for a tied embedding. expert: whose it is.
    forms: `values` (dequantized, fp32), `bfloat16` (the same rounded once), `codes` where it is stored in E4M3, and
    `q8_0`, the values on that grid, where the engine is known to hold them so.
    scales: for a tensor of scales, the name of the weight they belong to.
    """

    name: str
    places: tuple[tuple[int | None, str], ...]
    expert: int | None
    forms: Mapping[str, TensorProbe] = field(default_factory=dict)
    scales: str | None = None

    @property
    def kind(self) -> str:
        return "weight" if self.scales is None else "scale"


class Binder(Protocol):
    """A runner with the ability `bindings`."""

    def bindings(self) -> BindingReport: ...


class Holder(Protocol):
    """A runner with the ability `parameters`, for engines whose operations cannot be watched."""

    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Live parameters by the checkpoint's tensor names, each in the checkpoint's shape (a view of what is held).

        Weights that are held in E4M3 come as they are, their scales under the scales' own names.
        """
        ...


def report_parameters(parameters: Mapping[str, torch.Tensor]) -> BindingReport:
    """The report of a runner that can only show what it holds: which operation reads it, and how often, stays open."""
    return BindingReport(
        tuple(
            Piece(None, "", None, "weight", probe_tensor(tensor), by="held", claims=name)
            for name, tensor in parameters.items()
        )
    )
