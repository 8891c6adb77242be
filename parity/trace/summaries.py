"""What do the numbers of each capture look like? Moments in fp64, one capture at a time, a block of it at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from parity.records import Capture
from parity.trace.disk import open_trace
from parity.trace.trace import ANY, Trace

BLOCK = 2**18
"""Elements widened to fp64 at a time: 2 MiB, and a handful of temporaries of that size."""


@dataclass(frozen=True)
class CaptureStatistics:
    """Numbers of one capture.

    count: values. min, max, mean, std (of the population), l2: over the finite values, in fp64; None when there are
    none. nonfinite, zeros: how many values.
    """

    number: int
    name: str
    phase: str
    step: int
    chunk: int
    dtype: str
    shape: tuple[int, ...]
    count: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    l2: float | None
    nonfinite: int
    zeros: int


def trace_statistics(
    trace: str | Path | Trace, *, stage: str | None = None, layer: object = ANY, phase: str | None = None
) -> Iterator[CaptureStatistics]:
    """Statistics of each capture in order, one at a time; stage, layer and phase narrow them as in `Trace.select`.

    trace: a folder or an open trace. Payloads are read block by block and never held. Raises TraceError as
    `open_trace` does.
    """
    opened = open_trace(trace) if isinstance(trace, (str, Path)) else trace
    for capture in opened.select(stage=stage, layer=layer, phase=phase):
        yield capture_statistics(capture, opened.tensor(capture))


def capture_statistics(capture: Capture, tensor: torch.Tensor) -> CaptureStatistics:
    """Statistics of one capture; tensor: its payload, any shape and dtype, also empty.

    Mean and deviations are merged over blocks. Source: Chan, Golub & LeVeque 1979, the pairwise update.
    """
    flat = tensor.detach().reshape(-1)
    finite, mean, squares, energy = 0, 0.0, 0.0, 0.0
    low, high, zeros = math.inf, -math.inf, 0
    for first in range(0, len(flat), BLOCK):
        block = _widen(flat[first : first + BLOCK])
        zeros += int((block == 0).sum())
        block = block[torch.isfinite(block)]
        count = len(block)
        if not count:
            continue
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        here = float(block.mean())
        delta, total = here - mean, finite + count
        squares += float(((block - here) ** 2).sum()) + delta**2 * finite * count / total
        mean += delta * count / total
        energy += float((block**2).sum())
        finite = total
    return CaptureStatistics(
        number=capture.number,
        name=capture.name,
        phase=capture.phase,
        step=capture.step,
        chunk=capture.chunk,
        dtype=capture.dtype,
        shape=capture.shape,
        count=len(flat),
        min=low if finite else None,
        max=high if finite else None,
        mean=mean if finite else None,
        std=math.sqrt(squares / finite) if finite else None,
        l2=math.sqrt(energy) if finite else None,
        nonfinite=len(flat) - finite,
        zeros=zeros,
    )


def _widen(block: torch.Tensor) -> torch.Tensor:
    # fp8 has no direct conversion to fp64 on every backend; fp32 holds it exactly.
    return block.float().double() if block.dtype.is_floating_point and block.element_size() == 1 else block.double()
