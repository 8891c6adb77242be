"""How do an engine's tensors become stages? Residual pairs joined, fused tensors split, axes put in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from parity.errors import ProbeError
from parity.importers.layout import lay_out
from parity.records import Rows
from parity.stages import term
from parity_oracles.stagemap.record import Part, Tensor

HYPER = {"D": "hidden", "H": "heads", "G": "kv_heads", "K": "head_dim", "E": "experts", "S": "top_k", "V": "vocab",
         "F": "expert_width"}  # fmt: skip


def sizes_of(hyper: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the axis letters from effective hyper-parameters."""
    return {letter: int(hyper[name]) for letter, name in HYPER.items() if hyper.get(name)}


def deliver(tensor: Tensor, value: Any, sizes: Mapping[str, int], *, place: str) -> list[tuple[str, torch.Tensor]]:
    """(stage, tensor in the stage's axes) of every part of what the engine gave.

    value: a tensor, or a tuple or list of which the source names results; a single tensor counts as a tuple of one.
    Ids come as int32, other values in their dtype. Views where that is possible. Raises ProbeError naming `place`.
    """
    joined = _joined(tensor, value, place)
    pieces = [joined] if len(tensor.parts) == 1 else _split(tensor, joined, sizes, place)
    found = []
    for part, piece in zip(tensor.parts, pieces, strict=True):
        word = term(part.stage)
        laid, _ = lay_out(
            piece, part.axes, word, sizes, refuse=lambda e, f, part=part: _wrong(f"{place} for {part.stage}", e, f)
        )
        if word.values == "ids":
            if laid.is_floating_point() or laid.is_complex():
                raise _wrong(f"{place} for {part.stage}", "whole numbers", str(laid.dtype))
            laid = laid.to(torch.int32)
        found.append((part.stage, laid))
    return found


def slot_rows(rows: Rows, ids: torch.Tensor) -> Rows:
    """The rows of a stage that lies as [T, S, ...]: each token row once a slot, with the expert that `ids` [T, S] says.

    Raises ProbeError for ids that are not of these rows.
    """
    if ids.dim() != 2 or len(ids) != len(rows):
        raise _wrong("rows of the experts", f"ids [T, S] of {len(rows)} token rows", f"shape {list(ids.shape)}")
    tokens, slots = ids.shape
    return Rows(
        np.repeat(rows.request, slots),
        np.repeat(rows.position, slots),
        np.tile(np.arange(slots, dtype=np.int32), tokens),
        ids.flatten().to(torch.int32).cpu().numpy(),
    )


def _joined(tensor: Tensor, value: Any, place: str) -> torch.Tensor:
    given: Sequence[Any] = value if isinstance(value, (tuple, list)) else (value,)
    parts = [given[index] if index < len(given) else None for index in tensor.results]
    if not all(isinstance(part, torch.Tensor) for part in parts):
        found = ", ".join(type(one).__name__ for one in given)
        raise _wrong(place, f"tensors at {list(tensor.results)} of its results", found)
    if len(parts) == 1:
        return parts[0]  # pyright: ignore[reportReturnType]
    dtype = parts[0].dtype  # pyright: ignore[reportOptionalMemberAccess]
    inner = dtype if tensor.rounds is None else getattr(torch, tensor.rounds)
    total = parts[0].to(inner)  # pyright: ignore[reportOptionalMemberAccess]
    for part in parts[1:]:
        if part.shape != total.shape:  # pyright: ignore[reportOptionalMemberAccess]
            shapes = [list(one.shape) for one in parts]  # pyright: ignore[reportOptionalMemberAccess]
            raise _wrong(place, "a pair of one shape", str(shapes))
        total = total + part.to(inner)  # pyright: ignore[reportOptionalMemberAccess]
    return total.to(dtype)


def _split(tensor: Tensor, joined: torch.Tensor, sizes: Mapping[str, int], place: str) -> Sequence[torch.Tensor]:
    widths = [_width(part, sizes, place) for part in tensor.parts]
    if joined.dim() == 0 or sum(widths) != joined.shape[-1]:
        raise _wrong(place, f"a last axis of {' + '.join(map(str, widths))}", f"shape {list(joined.shape)}")
    return joined.split(widths, dim=-1)


def _width(part: Part, sizes: Mapping[str, int], place: str) -> int:
    letters = part.axes[-1]
    if not all(letter in sizes for letter in letters):
        raise _wrong(f"{place} for {part.stage}", f"sizes of {letters} to split by", f"{dict(sizes)}")
    return prod(sizes[letter] for letter in letters)


def _wrong(place: str, expected: str, found: str) -> ProbeError:
    return ProbeError(
        place=place,
        expected=expected,
        found=found,
        next_step="The engine's tensor is not what its stage map says; correct the map.",
    )
