"""Are slices ranked by the worse of both gates, tiles as the kernel cut them, and is what is left out counted?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.align import Aligned
from parity.compare.pair import measure_replayed
from parity.lab.ranking import MOST_SLICES, TILE, rank_slices
from parity.records import Capture, Rows

TILE_M = 16


def aligned(loads: tuple[int, ...], *, width: int = 8, tile_m: int | None = TILE_M) -> Aligned:
    """Rows of experts, one slot a token, `loads[e]` of expert e in order."""
    expert = np.repeat(np.arange(len(loads)), loads).astype(np.int32)
    number = np.concatenate([np.arange(load) for load in loads]) if sum(loads) else np.zeros(0, np.int64)
    tokens = len(expert)
    tensor = torch.randn((tokens, 1, width), generator=torch.Generator().manual_seed(0)) + 2
    rows = Rows(np.zeros(tokens, np.int32), np.arange(tokens), np.zeros(tokens, np.int32), expert)
    geometry = {} if tile_m is None else {"tile_m": tile_m}
    capture = Capture(0, "moe.gate", 0, "prefill", 0, 0, ("R", "F"), "float32", (tokens, width), rows, geometry)
    return Aligned(
        "moe.gate", 0, "x", ("T", "S", "F"), tensor, np.arange(tokens), np.full(tokens, "prefill"),
        np.zeros(tokens, np.int64), (capture,), expert[:, None], number[:, None],
    )  # fmt: skip


def rank(sut: Aligned, oracle: torch.Tensor):
    return rank_slices("L00.moe.gate", measure_replayed([(oracle, sut)]), [], sut, None)


@pytest.mark.parametrize("load", [TILE_M, TILE_M + 1, 2 * TILE_M - 1, 2 * TILE_M])
def test_a_lost_tile_is_named_by_its_rows(load: int):
    truth = aligned((3, load, 0, 1))
    lost = truth.tensor.clone()
    lost[3 + TILE_M :][: load - TILE_M] = 0  # what lies past the first tile of expert 1
    tiles = rank(replace(truth, tensor=lost), truth.tensor)[TILE]
    assert tiles.total == 1 + -(-load // TILE_M) + 1
    worst = tiles.slices[0]
    if load == TILE_M:
        assert not worst.lost
    else:
        assert (worst.where, worst.rows) == ("expert 1, its rows 16..31", load - TILE_M)
        assert (worst.lost, worst.rel_l2) == (True, 1.0)


def test_without_a_stated_tile_there_are_none():
    truth = aligned((5, 2), tile_m=None)
    assert TILE not in rank(truth, truth.tensor)


def test_only_the_worst_are_kept_and_all_are_counted():
    truth = aligned((MOST_SLICES + 9,))
    off = truth.tensor.clone()
    off[-1] *= 1.5
    rows = rank(replace(truth, tensor=off), truth.tensor)["row"]
    assert (len(rows.slices), rows.total, rows.over) == (MOST_SLICES, MOST_SLICES + 9, 0)
    assert rows.slices[0].where.endswith(f"its row {MOST_SLICES + 8}")
    assert rows.slices[0].rel_l2 == pytest.approx(0.5)
    assert rows.slices[0].over_floor is None, "without a floor nothing is judged"
