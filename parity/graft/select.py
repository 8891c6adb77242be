"""Which rows and columns of a donor's tensor make up a slice, and where do they go in the recipient's run?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.align import Aligned, align, route
from parity.errors import UsageError
from parity.records import Rows, Slice, site_name
from parity.runner import Graft
from parity.trace import Trace

ROUTED = ("moe.topk_weights",)
"""Token stages whose columns are top-k slots: they follow the expert that each side put there."""


@dataclass(frozen=True)
class Selection:
    """A graft, and how many rows of the slice had to be left out because the recipient sent those tokens to other
    experts."""

    graft: Graft
    left_out: int


def select_graft(
    *,
    donor: Trace,
    recipient: Trace,
    layer: int | None,
    stage: str,
    where: Slice | None = None,
    request: int = 0,
) -> Selection:
    """The donor's tensor at a site, cut down to a slice, as a graft for the recipient's run of the same request.

    where: heads (of a stage with heads), columns of the flattened row, positions [first, stop); for expert rows experts
        and row numbers inside the recipient's expert. What is None is not limited. request: index in both traces.
    Expert rows and routing weights are matched by the expert that computed them, whatever slot it is in.
    Raises UsageError for a site either trace lacks, an axis the stage does not have, and a slice without rows.
    """
    where = Slice() if where is None else where
    given, own = (
        _aligned(side, trace, layer, stage, request) for side, trace in (("donor", donor), ("recipient", recipient))
    )
    name = site_name(layer, stage)
    if given.tensor.shape[1:] != own.tensor.shape[1:]:
        raise UsageError(
            place=f"graft at {name}",
            expected=f"rows of shape {list(own.tensor.shape[1:])}, as the recipient has there",
            found=f"{list(given.tensor.shape[1:])} in the donor",
            next_step="Graft between runs of one model, at a stage that both lay out alike.",
        )
    shared, of_donor, of_own = np.intersect1d(given.position, own.position, assume_unique=True, return_indices=True)
    values = given.tensor[torch.from_numpy(of_donor)]
    keep = np.ones(own.tensor.shape[:2] if own.expert is not None else own.tensor.shape[:1], bool)[of_own]
    left_out = 0
    if own.expert is not None and given.expert is not None:
        routing = route(oracle_ids=own.expert[of_own], sut_ids=given.expert[of_donor])
        values, keep = routing.reorder(values), routing.matched.copy()
        left_out = int((~keep).sum())
    elif stage in ROUTED:
        ids = [
            _aligned(side, trace, layer, "moe.topk_ids", request)
            for side, trace in (("donor", donor), ("recipient", recipient))
        ]
        routing = route(oracle_ids=ids[1].tensor.numpy()[of_own], sut_ids=ids[0].tensor.numpy()[of_donor])
        values, keep = routing.reorder(values), ~routing.flipped
        left_out = int((~keep).sum())
    keep &= _chosen_rows(name, own, of_own, shared, where)
    if not keep.any():
        raise UsageError(
            place=f"graft at {name}",
            expected="a slice with at least one row that both runs computed",
            found=f"none of {_span(shared)} ({left_out} rows went to other experts)",
            next_step="Widen the slice, or graft moe.topk_ids first so that both runs route alike.",
        )
    graft = Graft(
        layer, stage, values[torch.from_numpy(keep)], _rows(own, of_own, keep, request), _columns(name, own, where)
    )
    return Selection(graft, left_out)


def _span(shared: NDArray[np.int64]) -> str:
    return f"{len(shared)} shared positions" + (f", {shared[0]} to {shared[-1]}" if len(shared) else "")


def _aligned(side: str, trace: Trace, layer: int | None, stage: str, request: int) -> Aligned:
    found = align(trace, stage, layer, request)
    if found is None:
        raise UsageError(
            place=f"{side} of the graft",
            expected=f"a capture of {site_name(layer, stage)}",
            found=f"none in its trace, of a model with the layers 0..{trace.run.layers - 1}",
            next_step="Name a layer and a stage that the model has, and capture that site on both sides.",
        )
    return found


def _chosen_rows(
    name: str, own: Aligned, of_own: NDArray[np.intp], shared: NDArray[np.int64], where: Slice
) -> NDArray[np.bool_]:
    """Mask over the recipient's rows at the shared positions, [T] or [T, S]."""
    chosen = np.ones(len(shared), bool)
    if where.positions is not None:
        chosen = (shared >= where.positions[0]) & (shared < where.positions[1])
    if own.expert is None:
        if where.experts is not None or where.rows is not None:
            raise _no_axis(name, own, "experts" if where.experts is not None else "rows of an expert")
        return chosen
    mask = np.repeat(chosen[:, None], own.expert.shape[1], axis=1)
    if where.experts is not None:
        mask &= np.isin(own.expert[of_own], where.experts)
    if where.rows is not None:
        if own.row_in_expert is None or (own.row_in_expert[of_own] < 0).any():
            raise _no_axis(name, own, "row numbers inside an expert")
        mask &= np.isin(own.row_in_expert[of_own], where.rows)
    return mask


def _columns(name: str, own: Aligned, where: Slice) -> tuple[tuple[int, int], ...] | None:
    """Column ranges of the flattened row, None for all of it."""
    ranges: list[tuple[int, int]] = []
    if where.heads is not None:
        if own.axes[-2] not in ("H", "G"):
            raise _no_axis(name, own, "heads")
        heads, width = own.tensor.shape[-2:]
        wrong = [head for head in where.heads if not 0 <= head < heads]
        if wrong:
            raise UsageError(
                place=f"graft at {name}",
                expected=f"heads from 0 to {heads - 1}",
                found=str(wrong[0]),
                next_step="Heads are numbered as the stage has them: query heads at q, key/value heads at k and v.",
            )
        ranges += [(head * width, (head + 1) * width) for head in where.heads]
    if where.columns is not None:
        first, stop = where.columns
        ranges = [(max(a, first), min(b, stop)) for a, b in ranges or [(first, stop)]]
        ranges = [pair for pair in ranges if pair[0] < pair[1]]
    return tuple(ranges) if where.heads is not None or where.columns is not None else None


def _rows(own: Aligned, of_own: NDArray[np.intp], keep: NDArray[np.bool_], request: int) -> Rows:
    position = own.position[of_own]
    if own.expert is None:
        position = position[keep]
        return Rows(np.full(len(position), request, np.int32), position)
    token, slot = np.nonzero(keep)
    return Rows(
        np.full(len(token), request, np.int32), position[token], slot.astype(np.int32), own.expert[of_own][token, slot]
    )


def _no_axis(name: str, own: Aligned, what: str) -> UsageError:
    return UsageError(
        place=f"graft at {name}",
        expected=f"a slice along the axes {' '.join(own.axes)}",
        found=what,
        next_step="Limit the slice to axes that this stage has.",
    )
