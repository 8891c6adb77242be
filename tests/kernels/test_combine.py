"""Is the weighted combine within the rounding of fp32 and one bf16 rounding, in slot order?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import pytest
import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError
from parity_kernels.combine.launch import combine_launch
from parity_kernels.combine.op import combine
from parity_kernels.combine.reference import combine_reference

U_BF16, U_FP32 = 2.0**-8, 2.0**-24  # unit roundoff: half a unit in the last of 8 and of 24 bits


def make(tokens, hidden, slots, generator, device):
    rows = tokens * slots
    down = torch.randn(rows, hidden, generator=generator).to(torch.bfloat16)
    slot_row = torch.randperm(rows, generator=generator).to(torch.int32).view(tokens, slots)
    weights = torch.rand(tokens, slots, generator=generator)
    return down.to(device), slot_row.to(device), weights.to(device)


def bound(down, slot_row, weights):
    """S products and S additions in fp32 are each off by at most U_FP32 of the sum of magnitudes (Higham 2002, 3.1: a
    sum of n terms with n rounded products: gamma_{n+1}); then one rounding to bf16 of a value that near."""
    magnitude = combine_reference(down.abs(), slot_row, weights.abs())
    slots = slot_row.shape[1]
    rounding = U_BF16 * combine_reference(down, slot_row, weights).abs() + 2.0**-134
    return rounding + 1.01 * (slots + 1) * U_FP32 * magnitude


@pytest.mark.parametrize(
    ("tokens", "hidden", "slots"),
    [(0, 32, 2), (1, 384, 2), (7, 1, 1), (8, 31, 3), (9, 33, 8), (511, 40, 2), (513, 40, 2), (5, 1025, 8)],
)
def test_within_the_bound(tokens, hidden, slots, generator, device, beyond):
    down, slot_row, weights = make(tokens, hidden, slots, generator, device)
    out = torch.full((tokens, hidden), float("nan"), dtype=torch.bfloat16, device=device)
    assert combine(down, slot_row, weights, out=out) is out
    assert beyond(out, combine_reference(down, slot_row, weights), bound(down, slot_row, weights)) == 0


def test_swapped_weights_would_be_seen(generator, device, beyond):
    """Planted defect: each token's weights belong to the other slot."""
    down, slot_row, weights = make(20, 64, 2, generator, device)
    got = combine(down, slot_row, weights)
    wrong = combine_reference(down, slot_row, weights.flip(1))
    assert beyond(got, wrong, bound(down, slot_row, weights.flip(1))) > 0.9 * got.numel()


def test_slot_order(device):
    """2^24 + 1 - 2^24 in fp32: 0 in slot order, 1 in another."""
    down = torch.tensor([[2.0**24], [1.0], [-(2.0**24)]], dtype=torch.bfloat16, device=device)
    ones = torch.ones(1, 3, device=device)
    order = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    assert combine(down, order, ones).item() == 0.0
    assert combine(down, order[:, [0, 2, 1]].contiguous(), ones).item() == 1.0


def test_nan_of_a_row_is_not_hidden_by_a_zero_weight(generator, device):
    down, slot_row, weights = make(4, 16, 2, generator, device)
    down[slot_row[1, 0].long()] = float("nan")
    weights[1, 0] = 0.0
    out = combine(down, slot_row, weights)
    assert out[1].isnan().all()
    assert not out[[0, 2, 3]].isnan().any()


def test_strided_rows(generator, device):
    down, slot_row, weights = make(6, 48, 2, generator, device)
    wide = torch.cat([down, down], dim=1)
    assert torch.equal(combine(wide[:, :48], slot_row, weights), combine(down, slot_row, weights))


def test_misuse_raises_before_launch(generator, device):
    down, slot_row, weights = make(4, 16, 2, generator, device)
    with pytest.raises(DtypeError, match="weights"):
        combine(down, slot_row, weights.to(torch.bfloat16))
    with pytest.raises(ShapeError, match="weights"):
        combine(down, slot_row, weights[:, :1])
    with pytest.raises(ShapeError, match="contiguous"):
        combine(down.T.contiguous().T, slot_row, weights)
    slot_row[0, 0] = 8
    if device.type == "cpu":
        with pytest.raises(ValueRangeError, match="slot_row"):
            combine(down, slot_row, weights)
    else:
        assert combine(down, slot_row, weights)[0].isnan().all()


@pytest.mark.parametrize(("tokens", "hidden"), [(1, 1), (513, 1025)])
def test_launch_covers(tokens, hidden):
    assert not combine_launch(n_tokens=tokens, hidden=hidden).truncated
