"""Which rows of a tensor does a graft replace? Matches them by request, absolute position and slot."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import ProbeError
from parity.metrics.bits import as_bits
from parity.records import Capture, Rows, site_name
from parity.runner import Graft


class PlacedGraft:
    """One graft and which of its rows have found their place so far."""

    def __init__(self, graft: Graft) -> None:
        """Raises ProbeError when the tensor has another number of rows than `rows`, or names a row twice."""
        self.graft = graft
        self.name = site_name(graft.layer, graft.stage)
        if graft.tensor.dim() < 1 or graft.tensor.shape[0] != len(graft.rows):
            raise ProbeError(
                place=f"graft at {self.name}",
                expected=f"{len(graft.rows)} leading rows, as its `rows` says",
                found=f"shape {tuple(graft.tensor.shape)}",
                next_step="Give one row of the tensor for each row named.",
            )
        keys = _keys(graft.rows, slots=graft.rows.slot is not None)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._columns = _columns(graft, self.name)
        if (self._keys[1:] == self._keys[:-1]).any():
            raise ProbeError(
                place=f"graft at {self.name}",
                expected="each (request, position, slot) once",
                found="a row named twice",
                next_step="Remove the duplicate: which of the two should win is undefined.",
            )
        self.placed = np.zeros(len(keys), bool)

    def apply(self, tensor: torch.Tensor, own: Capture) -> torch.Tensor:
        """`tensor`, described by `own`, with the graft's rows in place of its own: a new tensor, or `tensor` itself
        when no row matches.

        Values are cast to the tensor's dtype by `Tensor.to` (round to nearest even); equal dtypes move bit for bit.
        Raises ProbeError for another row shape, for integers against floats, or for expert rows of another expert.
        """
        graft, rows = self.graft, own.rows
        if tensor.shape[1:] != graft.tensor.shape[1:]:
            raise ProbeError(
                place=f"graft at {self.name}",
                expected=f"rows of shape {tuple(tensor.shape[1:])}, as in the forward pass",
                found=f"rows of shape {tuple(graft.tensor.shape[1:])}",
                next_step="Bring the tensor to the engine's own layout of this stage first.",
            )
        if tensor.is_floating_point() != graft.tensor.is_floating_point():
            raise ProbeError(
                place=f"graft at {self.name}",
                expected=f"values that fit {tensor.dtype}",
                found=str(graft.tensor.dtype),
                next_step="Ids replace ids and floats replace floats.",
            )
        if (graft.rows.slot is None) != (rows.slot is None):
            raise ProbeError(
                place=f"graft at {self.name}",
                expected="slots in the graft's rows exactly where the forward pass has expert rows",
                found="them on one side only",
                next_step="Name expert rows by (request, position, slot), token rows without slot.",
            )
        wanted = _keys(rows, slots=rows.slot is not None)
        at = np.searchsorted(self._keys, wanted)
        at[at == len(self._keys)] = 0
        hit = self._keys[at] == wanted if len(self._keys) else np.zeros(len(wanted), bool)
        target = np.flatnonzero(hit)
        if not len(target):
            return tensor
        source = self._order[at[target]]
        self._check_experts(rows, target, source)
        self.placed[source] = True
        values = graft.tensor[torch.from_numpy(source).to(graft.tensor.device)]
        result = tensor.clone(memory_format=torch.contiguous_format)
        index = torch.from_numpy(target).to(tensor.device)
        # A replaced row must carry its exact bits, NaN payloads included: rows are moved as integers.
        flat = as_bits(result).view(len(result), -1)
        given = as_bits(values.to(tensor.device, tensor.dtype)).view(len(values), -1)
        if self._columns is None:
            flat[index] = given
        else:
            columns = self._columns.to(tensor.device)
            flat[index[:, None], columns] = given[:, columns]
        return result

    def check(self) -> None:
        """Raise ProbeError when a row of the graft never found its place: the proof would be of nothing."""
        lost = int((~self.placed).sum())
        if lost:
            raise ProbeError(
                place=f"graft at {self.name}",
                expected=f"all of its {len(self.placed)} rows to be put into the forward pass",
                found=f"{lost} rows that this run never computed there",
                next_step="Name rows by the run's own requests and absolute positions.",
            )

    def _check_experts(self, rows: Rows, target: NDArray[np.intp], source: NDArray[np.intp]) -> None:
        if self.graft.rows.expert is None or rows.expert is None:
            return
        other = np.count_nonzero(rows.expert[target] != self.graft.rows.expert[source])
        if other:
            raise ProbeError(
                place=f"graft at {self.name}",
                expected="rows of the same experts as in the forward pass",
                found=f"{other} of {len(target)} rows computed by another expert",
                next_step="Graft moe.topk_ids of the same side as well, or leave those rows out.",
            )


def _columns(graft: Graft, name: str) -> torch.Tensor | None:
    """Numbers of the columns that the graft replaces, None for all; ProbeError for ranges outside the row."""
    if graft.columns is None:
        return None
    width = graft.tensor[:1].numel() if len(graft.tensor) else 0
    wrong = [pair for pair in graft.columns if not 0 <= pair[0] < pair[1] <= width]
    if wrong or not graft.columns:
        raise ProbeError(
            place=f"graft at {name}",
            expected=f"column ranges inside 0..{width}",
            found=str(wrong[0] if wrong else "none"),
            next_step="Give [first, stop) of the flattened row, or leave columns out for whole rows.",
        )
    return torch.cat([torch.arange(first, stop) for first, stop in graft.columns]).unique()


def _keys(rows: Rows, *, slots: bool) -> NDArray[np.bytes_]:
    """One sortable key a row: its numbers as fixed-width big-endian bytes, which order as the numbers do."""
    columns = [rows.request, rows.position]
    if slots and rows.slot is not None:
        columns.append(rows.slot)
    packed = np.stack([np.asarray(column, np.int64) for column in columns], axis=1).astype(">i8")
    return np.ascontiguousarray(packed).view(f"S{8 * len(columns)}").reshape(-1)
