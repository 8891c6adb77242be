"""In what do two traces differ, bit by bit? No tolerance and no verdict: that is `parity.compare`'s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.records import Capture, Rows, Run, as_json
from parity.trace.disk import open_trace
from parity.trace.trace import Trace

BLOCK_BYTES = 4 * 2**20
"""Bytes of each payload looked at at a time."""
_IDENTITY = ("layer", "stage", "phase", "step", "chunk", "model")


@dataclass(frozen=True)
class FieldDifference:
    """A field of the run, or of a capture, with both values as short texts."""

    field: str
    a: str
    b: str


@dataclass(frozen=True)
class CaptureDifference:
    """One capture that differs, or that only one trace has.

    state: `payload` (the bits differ), `metadata` (the bits agree, a field does not), `not comparable` (shape or dtype
    differ), `only in a`, `only in b`. fields: what differs besides the payload.
    elements: how many there are; differing: how many have other bits; first: index of the first of those, by axis.
    """

    name: str
    phase: str
    step: int
    chunk: int
    state: str
    fields: tuple[FieldDifference, ...] = ()
    elements: int = 0
    differing: int = 0
    first: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TraceDifference:
    """Two traces, a and b. run: fields of the run that differ. captures: those that differ; `identical`: how many do
    not, in payload and metadata."""

    run: tuple[FieldDifference, ...]
    captures: tuple[CaptureDifference, ...]
    identical: int

    @property
    def same_payloads(self) -> bool:
        """True when both have the same captures and every payload the same bits."""
        return all(capture.state == "metadata" for capture in self.captures)

    @property
    def same(self) -> bool:
        """True when nothing differs at all."""
        return not self.run and not self.captures


def diff_traces(a: str | Path | Trace, b: str | Path | Trace) -> TraceDifference:
    """Compare two traces bit by bit: the run, then capture by capture.

    Captures are paired by layer, stage, phase, step, chunk and model; of several of one site, in order. Payloads are
    read a block at a time. Elements compare by their bits: equal NaNs are equal, -0 and +0 are not.
    Raises TraceError as `open_trace` does.
    """
    first, second = (open_trace(side) if isinstance(side, (str, Path)) else side for side in (a, b))
    ours, theirs = _by_identity(first), _by_identity(second)
    found: list[CaptureDifference] = []
    for key, capture in ours.items():
        if key not in theirs:
            found.append(_differing(capture, "only in a"))
        elif (difference := _compare(first, capture, second, theirs[key])) is not None:
            found.append(difference)
    found += [_differing(capture, "only in b") for key, capture in theirs.items() if key not in ours]
    alone = sum(item.state == "only in b" for item in found)
    return TraceDifference(tuple(_run_fields(first.run, second.run)), tuple(found), len(ours) - len(found) + alone)


def _by_identity(trace: Trace) -> dict[tuple[Any, ...], Capture]:
    seen: Counter[tuple[Any, ...]] = Counter()
    found = {}
    for capture in trace.captures:
        key = tuple(getattr(capture, name) for name in _IDENTITY)
        found[*key, seen[key]] = capture
        seen[key] += 1
    return found


def _differing(capture: Capture, state: str, **about: Any) -> CaptureDifference:
    return CaptureDifference(capture.name, capture.phase, capture.step, capture.chunk, state, **about)


def _compare(first: Trace, a: Capture, second: Trace, b: Capture) -> CaptureDifference | None:
    about = tuple(_capture_fields(a, b))
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return _differing(a, "not comparable", fields=about)
    differing, index, count = 0, None, 0
    for start, unequal in _unequal(first.tensor(a), second.tensor(b)):
        count += len(unequal)
        here = int(unequal.sum())
        if here and index is None:
            flat = start + int(unequal.to(torch.uint8).argmax())
            index = tuple(int(at) for at in np.unravel_index(flat, a.shape))
        differing += here
    if not differing and not about:
        return None
    state = "payload" if differing else "metadata"
    return _differing(a, state, fields=about, elements=count, differing=differing, first=index)


def _unequal(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(number of the first element, mask of the elements whose bits differ), block by block."""
    width = a.element_size()
    step = BLOCK_BYTES // width
    flat_a, flat_b = (side.detach().reshape(-1) for side in (a, b))
    for start in range(0, len(flat_a), step):
        bits = [side[start : start + step].cpu().contiguous().view(torch.uint8) for side in (flat_a, flat_b)]
        yield start, (bits[0] != bits[1]).reshape(-1, width).any(dim=1)


def _run_fields(a: Run, b: Run) -> Iterator[FieldDifference]:
    yield from _mapping_fields(as_json(a), as_json(b), "")


def _mapping_fields(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str) -> Iterator[FieldDifference]:
    for key in dict.fromkeys((*a, *b)):
        one, other = a.get(key, "absent"), b.get(key, "absent")
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _mapping_fields(one, other, f"{prefix}{key}.")
        elif one != other:
            yield FieldDifference(f"{prefix}{key}", _short(one), _short(other))


def _capture_fields(a: Capture, b: Capture) -> Iterator[FieldDifference]:
    for item in fields(Capture):
        if item.name in ("number", "rows"):
            continue
        one, other = as_json(getattr(a, item.name)), as_json(getattr(b, item.name))
        if one != other:
            yield FieldDifference(item.name, _short(one), _short(other))
    for item in fields(Rows):
        one, other = getattr(a.rows, item.name), getattr(b.rows, item.name)
        absent = one is None and other is None
        if not absent and (one is None or other is None or not np.array_equal(one, other)):
            yield FieldDifference(f"rows.{item.name}", *(_short(None if x is None else x[:8]) for x in (one, other)))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
