"""Is the permutation the stable sort by expert, in every run? Integers: the tolerance is zero."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import pytest
import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError
from parity_kernels.permute.launch import permute_launch
from parity_kernels.permute.op import Permutation, permute
from parity_kernels.permute.reference import permute_reference


def poisoned(tokens, slots, experts, device):
    shapes = ((tokens * slots,), (tokens * slots,), (experts + 1,), (tokens, slots))
    return Permutation(*(torch.full(shape, -(2**31), dtype=torch.int32, device=device) for shape in shapes))


def check(ids, experts):
    got = permute(ids, n_experts=experts, out=poisoned(*ids.shape, experts, ids.device))
    want = permute_reference(ids.cpu(), n_experts=experts)
    for name, have, expected in zip(Permutation._fields, got, want, strict=True):
        assert torch.equal(have.cpu(), expected), name
    return got


# 127 to 129 and 4095 to 4097 pairs lie around the compiled tiles; 1 expert and 12 are no power of two or the smallest.
@pytest.mark.parametrize("experts", [1, 12, 128, 256])
@pytest.mark.parametrize(
    ("tokens", "slots"), [(0, 2), (1, 1), (127, 1), (128, 1), (43, 3), (4095, 1), (4097, 1), (900, 8)]
)
def test_equals_a_stable_sort(tokens, slots, experts, generator, device):
    slots = min(slots, experts)
    ids = torch.randint(0, experts, (tokens, slots), generator=generator, dtype=torch.int32)
    check(ids.to(device), experts)


def test_an_expert_with_all_rows_and_experts_with_none(device):
    got = check(torch.full((130, 1), 5, dtype=torch.int32, device=device), 12)
    assert got.expert_offsets.tolist() == [0] * 6 + [130] * 7


def test_skew_of_seven(generator, device):
    weights = torch.ones(12)
    weights[3] = 15.0  # about 7 times the mean share of a slot
    ids = torch.multinomial(weights.expand(600, 12), 2, generator=generator).to(torch.int32)
    got = check(ids.to(device), 12)
    rows = got.expert_offsets.diff()
    assert int(rows[3]) > 5 * float(rows[rows.argsort()[:-1]].float().mean())


def test_many_pairs(generator, device):
    """65536 + 8 pairs: several steps of the scan of every program, the last one partial."""
    ids = torch.randint(0, 128, (8193, 8), generator=generator, dtype=torch.int32)
    check(ids.to(device), 128)


def test_inverse_and_order(generator, device):
    ids = torch.randint(0, 12, (77, 2), generator=generator, dtype=torch.int32).to(device)
    p = permute(ids, n_experts=12)
    rows = p.slot_row[p.row_token.long(), p.row_slot.long()]
    assert torch.equal(rows.cpu(), torch.arange(154, dtype=torch.int32))
    again = permute(ids, n_experts=12)
    assert all(torch.equal(a, b) for a, b in zip(p, again, strict=True))


def test_an_unstable_order_would_be_seen(generator, device):
    """Planted defect: rows of an expert in slot-major order instead of token-major."""
    ids = torch.randint(0, 3, (50, 2), generator=generator, dtype=torch.int32).to(device)
    got = permute(ids, n_experts=3)
    slot_major = permute_reference(ids.cpu().T.contiguous(), n_experts=3)
    assert not torch.equal(got.row_token.cpu(), slot_major[1])


def test_misuse_raises_before_launch(device):
    ids = torch.zeros(4, 2, dtype=torch.int32, device=device)
    with pytest.raises(DtypeError, match="ids"):
        permute(ids.long(), n_experts=3)
    with pytest.raises(ShapeError, match="contiguous"):
        permute(torch.zeros(2, 4, dtype=torch.int32, device=device).T, n_experts=3)
    with pytest.raises(ShapeError, match="at least one expert"):
        permute(ids[:0], n_experts=0)
    if device.type == "cpu":
        with pytest.raises(ValueRangeError, match="ids"):
            permute(ids + 3, n_experts=3)


@pytest.mark.parametrize("experts", [1, 12, 128, 200])
def test_launch_covers(experts):
    assert not permute_launch(n_pairs=100, n_experts=experts).truncated
