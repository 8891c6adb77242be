"""Do positions and sizes fall into the ranges that the bins are named after?"""

from __future__ import annotations

import numpy as np

from parity.floor import position_range, size_range
from parity.floor.bins import FLIPPED, deviations, resolution
from parity.metrics import SliceTable, pair_moments


def test_positions_go_by_powers_of_four():
    assert position_range(np.array([0, 1, 3, 4, 15, 16, 63, 64, 4095, 4096])).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 6, 7]


def test_sizes_go_by_powers_of_two():
    assert size_range(np.array([1, 2, 3, 4, 7, 8, 1023, 1024])).tolist() == [0, 1, 1, 2, 2, 3, 9, 10]


def test_rows_are_judged_by_their_error_and_larger_slices_by_scale_too():
    import torch

    m = pair_moments(oracle=torch.ones(2, 4), sut=torch.ones(2, 4)).total(axis=1)
    assert set(deviations("row", "attn.q", m)) == set(deviations(FLIPPED, "attn.q", m)) == {"rel_l2"}
    assert set(deviations("expert", "moe.up", m)) == {"rel_l2", "slope", "norm_ratio"}
    assert set(deviations("row", "moe.router_logits", m)) == {"rel_l2", "max_abs"}
    assert len(SliceTable("row", np.arange(2), np.ones(2, np.int64), m)) == 2


def test_only_copies_have_no_resolution():
    assert resolution("embed.out", "rel_l2") == 0
    assert resolution("moe.router_logits", "max_abs") == 0
    assert resolution("moe.topk_weights", "slope") == 64 * 2**-24
