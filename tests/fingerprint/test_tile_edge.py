"""Are rows lost past a tile recognized, the tile height told or not, and is every other fault let pass?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.fingerprint import NEVER_WRITTEN, STALE, ErrorField
from parity.fingerprint import detect_tile_edge as detect

E, S, W = 8, 2, 96


def field(tokens: int, seed: int = 0, skew: float = 2.0):
    """(oracle, sut with 3 % noise, expert [T, S], number [T, S]) of a skewed router."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, E, generator=g).log() / torch.linspace(0.2, skew, E)
    ids = scores.topk(S).indices
    oracle = torch.randn(tokens, S, W, generator=g)
    sut = (oracle + 0.03 * torch.randn(oracle.shape, generator=g)).bfloat16()
    flat = ids.flatten().numpy()
    number = np.zeros(len(flat), np.int64)
    for e in range(E):
        number[flat == e] = np.arange((flat == e).sum())
    return oracle, sut, ids.numpy(), number.reshape(tokens, S)


def detect_tile_edge(**geometry):
    return detect(ErrorField(stage="moe.gate", layer=1, axes=("T", "S", "F"), **geometry))


def lose(sut, expert, number, cap, fill=0.0, experts=range(E)):
    lost = (number >= cap) & np.isin(expert, list(experts))
    sut[torch.from_numpy(lost)] = fill
    return lost


SIZES = [(120, 16), (600, 64), (1500, 128)]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("tokens", "tile"), SIZES)
def test_rows_past_a_cap_are_found_at_three_sizes(tokens, tile, told):
    oracle, sut, expert, number = field(tokens)
    lost = lose(sut, expert, number, 2 * tile)
    assert lost.any()
    got = detect_tile_edge(oracle=oracle, sut=sut, expert=expert, row_in_expert=number, tile_m=tile if told else None)
    assert got is not None
    assert got.cause == NEVER_WRITTEN
    assert got.score > 0.99  # the rest is the noise of the other rows
    assert got.numbers["agreement"] == 1.0
    assert got.numbers["cap"] == got.numbers["first_lost_row"] == 2 * tile
    assert got.numbers["lost_rows"] == lost.sum()
    assert tile in got.numbers["compatible_tile_m"]
    assert got.slice.experts == tuple(np.unique(expert[lost]).tolist())
    assert got.slice.rows is not None
    assert got.slice.rows[0] == 2 * tile
    assert f"Rows {2 * tile} and up" in got.sentence
    if told:
        assert f"{2 * tile} is 2 tiles of {tile}" in got.sentence


@pytest.mark.parametrize("fill", [0.0, 7.25, float("nan")])
def test_any_constant_fill_is_a_row_never_written(fill):
    oracle, sut, expert, number = field(600)
    lose(sut, expert, number, 128, fill)
    got = detect_tile_edge(oracle=oracle, sut=sut, expert=expert, row_in_expert=number, tile_m=64)
    assert got is not None
    assert got.cause == NEVER_WRITTEN
    assert got.numbers["row_kinds"]["zero" if fill == 0 else "constant"] == got.numbers["lost_rows"]


def test_stale_rows_are_told_apart_by_their_size():
    oracle, sut, expert, number = field(600)
    lost = torch.from_numpy(number >= 128)
    sut[lost] = torch.randn(int(lost.sum()), W, generator=torch.Generator().manual_seed(9)).bfloat16()
    got = detect_tile_edge(oracle=oracle, sut=sut, expert=expert, row_in_expert=number, tile_m=64)
    assert got is not None
    assert got.cause == STALE
    assert got.numbers["norm_ratio_of_lost"] == pytest.approx(1.0, abs=0.1)  # 96 normal values: 1 +/- 0.07 a row


def test_two_launches_with_caps_of_their_own():
    """Two prefill chunks, each with its own permutation and its own grid."""
    parts = [field(600, 1), field(300, 2)]
    for (_, sut, expert, number), cap in zip(parts, (192, 64), strict=True):
        lose(sut, expert, number, cap)
    oracle, sut = (torch.cat([p[i] for p in parts]) for i in (0, 1))
    expert, number = (np.concatenate([p[i] for p in parts]) for i in (2, 3))
    launch = np.repeat([0, 1], [600, 300])
    got = detect_tile_edge(oracle=oracle, sut=sut, expert=expert, row_in_expert=number, launch=launch)
    assert got is not None
    assert got.numbers["caps_by_launch"] == {"0": 192, "1": 64}
    assert got.numbers["compatible_tile_m"] == [64, 32, 16, 8]


def test_rows_that_were_not_captured_leave_the_cap_determined():
    """Every third token only, the first lost row among those missing: the cap is rounded down to a tile."""
    oracle, sut, expert, number = field(900)
    lose(sut, expert, number, 128)
    keep = np.arange(900) % 3 == 0
    got = detect_tile_edge(
        oracle=oracle[keep], sut=sut[keep], expert=expert[keep], row_in_expert=number[keep], tile_m=64
    )
    assert got is not None
    assert got.numbers["cap"] == 128
    assert got.numbers["first_lost_row"] >= 128


def silent(oracle, sut, expert, number, **more):
    for tile in (64, None):
        got = detect_tile_edge(oracle=oracle, sut=sut, expert=expert, row_in_expert=number, tile_m=tile, **more)
        assert got is None, got


@pytest.mark.parametrize(("tokens", "tile"), SIZES)
def test_silent_on_clean_noise(tokens, tile):
    for seed in range(5):
        silent(*field(tokens, seed))


def test_silent_on_scale_faults():
    oracle, sut, expert, number = field(600)
    silent(oracle, sut * 1.05, expert, number)
    scaled = sut.clone()
    scaled[torch.from_numpy(expert == 7)] *= 5
    silent(oracle, scaled, expert, number)
    tile = sut.clone()
    tile[torch.from_numpy((expert == 7) & (number >= 64))] *= 5
    silent(oracle, tile, expert, number)


def test_silent_on_experts_wrong_throughout():
    oracle, sut, expert, number = field(600)
    lose(sut, expert, number, 0, experts=[6, 7])
    silent(oracle, sut, expert, number)


def test_silent_on_scattered_and_on_permuted_rows():
    oracle, sut, expert, number = field(600)
    scattered = sut.clone()
    scattered[torch.rand(600, S, generator=torch.Generator().manual_seed(4)) < 0.2] = 0
    silent(oracle, scattered, expert, number)
    silent(oracle, sut[torch.randperm(600, generator=torch.Generator().manual_seed(5))], expert, number)


def test_silent_on_the_last_tokens_lost_and_on_one_lost_row():
    oracle, sut, expert, number = field(600)
    tail = sut.clone()
    tail[500:] = 0
    silent(oracle, tail, expert, number)
    one = sut.clone()
    token, slot = np.argwhere((expert == 7) & (number == 100))[0]
    one[token, slot] = 0
    silent(oracle, one, expert, number)


def test_silent_on_an_edge_that_is_no_tile():
    oracle, sut, expert, number = field(600)
    lose(sut, expert, number, 101)
    silent(oracle, sut, expert, number)


def test_silent_where_row_numbers_are_unknown_and_on_no_rows():
    oracle, sut, expert, number = field(600)
    lose(sut, expert, number, 128)
    silent(oracle, sut, expert, np.full_like(number, -1))
    silent(*(a[:0] for a in (oracle, sut, expert, number)))


def test_rows_whose_oracle_is_not_finite_do_not_hide_the_edge():
    """Garbage of an earlier layer left NaN in the inputs of some tokens, on both sides."""
    oracle, sut, expert, number = field(600)
    lose(sut, expert, number, 128)
    oracle[::3], sut[::3] = float("nan"), float("nan")
    got = detect_tile_edge(oracle=oracle, sut=sut, expert=expert, row_in_expert=number, tile_m=64)
    assert got is not None
    assert (got.cause, got.numbers["cap"]) == (NEVER_WRITTEN, 128)
