"""Do positions and sizes fall into the ranges that the bins are named after?"""

from __future__ import annotations

import numpy as np
import torch

from parity.floor import Bin, position_range, size_range
from parity.floor.bins import FLIPPED, deviations, resolution
from parity.metrics import SliceTable, pair_moments


def test_positions_go_by_powers_of_four():
    assert position_range(np.array([0, 1, 3, 4, 15, 16, 63, 64, 4095, 4096])).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 6, 7]


def test_sizes_go_by_powers_of_two():
    assert size_range(np.array([1, 2, 3, 4, 7, 8, 1023, 1024])).tolist() == [0, 1, 1, 2, 2, 3, 9, 10]


def test_rows_are_judged_by_their_error_and_larger_slices_by_scale_too():
    m = pair_moments(oracle=torch.ones(2, 4), sut=torch.ones(2, 4)).total(axis=1)
    assert set(deviations("row", "attn.q", m)) == set(deviations(FLIPPED, "attn.q", m)) == {"rel_l2"}
    assert set(deviations("expert", "moe.up", m)) == {"rel_l2", "slope", "norm_ratio"}
    assert set(deviations("row", "moe.router_logits", m)) == {"rel_l2", "max_abs"}
    assert len(SliceTable("row", np.arange(2), np.ones(2, np.int64), m)) == 2


def distance_bin(stage: str, metric: str, size: int, kind: str = "expert") -> Bin:
    return Bin("distance", stage, 0, kind, metric, "prefill", -1, size)


def test_only_copies_have_no_resolution():
    here = Bin("isolated", "moe.topk_weights", 0, "tensor", "slope", "prefill", -1, 6)
    assert resolution(here) == 64 * 2**-24
    assert resolution(here._replace(stage="embed.out", metric="rel_l2")) == 0
    assert resolution(here._replace(stage="moe.router_logits", metric="max_abs")) == 0


def test_by_distance_one_element_may_round_the_other_way():
    row = distance_bin("attn.q", "rel_l2", -1, "row")
    assert resolution(row) == 2**-8
    assert resolution(row._replace(mode="isolated")) == 64 * 2**-24
    assert resolution(row._replace(stage="logits")) == 64 * 2**-24
    assert resolution(distance_bin("moe.up", "rel_l2", 6)) == 2**-8 / 8
    assert resolution(distance_bin("moe.up", "slope", 6)) == 2**-8 / 64
    # The bound itself: the largest element of a row of BF16 numbers, one step further.
    x = torch.zeros(1, 64)
    x[0, 0] = 1.99
    x = x.bfloat16().float()
    step = x.clone()
    step[0, 0] += 2**-7
    m = pair_moments(oracle=x, sut=step).total(axis=1)
    assert resolution(row) <= deviations("row", "attn.q", m)["rel_l2"][0] <= 2 * resolution(row)
