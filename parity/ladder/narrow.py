"""Which slice of a stage carries the error? The kind of slice that narrows it down most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from parity.align import Aligned
from parity.compare import measure_aligned, over_floor_by_kind
from parity.floor import Floor
from parity.ladder.replay import ReplayedSite
from parity.metrics.slices import COLUMN_BLOCK
from parity.records import Comparison, Slice
from parity.stages import term


def narrowest_slice(site: ReplayedSite, record: Comparison, floor: Floor) -> Slice:
    """The slices over their gate, of the kind that narrows the fault down most.

    site, record: a replayed stage and its isolated comparison.
    A fault in one head shows in every row, a lost row in its expert as well: of the kinds in question, the one of whose
    slices the smallest share is over. In question are those whose worst slice is over its gate by at least half the
    orders of magnitude of the worst of all; a few rows just over theirs do not explain an expert far over its own.
    """
    over_floor = record.over_floor
    if site.sut is None or site.oracle is None or over_floor is None or not np.isfinite(over_floor):
        return Slice()
    if term(record.stage).values == "ids":
        return Slice()
    best: tuple[float, str, list[int]] | None = None
    mode, against = _blaming_gate(site, record)
    for measured in measure_aligned(oracle=against, sut=site.sut):
        if measured.phase != record.phase:
            continue
        numbers = {kind: table.index for kind, table in measured.tables}
        for kind, (_, over) in over_floor_by_kind(measured, floor, mode).items():
            exceeding = np.flatnonzero(np.nan_to_num(over, nan=0.0) > 1)
            if len(exceeding) and over[exceeding].max() >= np.sqrt(over_floor):
                share = len(exceeding) / len(over)
                if best is None or share < best[0]:
                    best = share, kind, numbers[kind][exceeding].tolist()
    return Slice() if best is None else _as_slice(best[1], best[2], site.sut)


def _blaming_gate(site: ReplayedSite, record: Comparison) -> tuple[str, torch.Tensor]:
    """The gate whose score the record carries, and what that one compares with."""
    assert site.oracle is not None
    gates = record.over_gates
    if site.emulated is not None and gates.get("distance", 0.0) > gates.get("error", 0.0):
        return "distance", site.emulated
    return "isolated", site.oracle


def joined_slice(slices: Sequence[Slice]) -> Slice:
    """Everything that any of the slices names: numbers together, ranges as the one that spans them."""

    def joined(name: str) -> tuple[int, ...] | None:
        values = sorted({value for one in slices for value in getattr(one, name) or ()})
        return tuple(values) or None

    def spanned(name: str) -> tuple[int, int] | None:
        values = joined(name)
        return None if values is None else (values[0], values[-1])

    return Slice(joined("heads"), joined("experts"), joined("rows"), spanned("columns"), spanned("positions"))


def _as_slice(kind: str, index: list[int], sut: Aligned) -> Slice:
    """Slice numbers of a kind as a record; the whole tensor is a slice without limits."""
    if kind == "head":
        return Slice(heads=tuple(index))
    if kind == "expert":
        return Slice(experts=tuple(index))
    if kind == "columns":
        return Slice(columns=(index[0] * COLUMN_BLOCK, (index[-1] + 1) * COLUMN_BLOCK))
    if kind != "row":
        return Slice()
    token, slot = np.divmod(np.array(index), sut.slots or 1)
    where = (int(sut.position[token].min()), int(sut.position[token].max()) + 1)
    if sut.expert is None or sut.row_in_expert is None:
        return Slice(positions=where)
    number = sut.row_in_expert[token, slot]
    rows = tuple(sorted({int(n) for n in number})) if (number >= 0).all() else None
    return Slice(experts=tuple(sorted({int(e) for e in sut.expert[token, slot]})), rows=rows, positions=where)
