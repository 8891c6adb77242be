"""Does canonical form put every row where it belongs, and does it refuse a trace that lies about its rows?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.align import align
from parity.errors import TraceError


def test_chunks_and_decode_steps_are_sorted_by_position(build):
    """Two requests packed into chunks, rows of the second chunk first, then decode."""
    value = torch.arange(20.0)[:, None] * torch.ones(4)
    first = build.capture(0, "attn.norm", value[[4, 5, 0, 1]], [4, 5, 0, 1], request=[0, 0, 1, 1], chunk=1)
    second = build.capture(1, "attn.norm", value[[2, 3, 0, 1]], [2, 3, 0, 1], request=[0] * 4)
    third = build.capture(2, "attn.norm", value[[2, 6]], [2, 6], request=[1, 0], phase="decode", step=1)
    pairs = [(first, value[[4, 5, 0, 1]]), (second, value[[2, 3, 0, 1]]), (third, value[[2, 6]])]
    trace = build.trace(pairs, {"a": (1,) * 7, "b": (2,) * 3})
    a, b = align(trace, "attn.norm", 0, 0), align(trace, "attn.norm", 0, 1)
    assert a is not None
    assert b is not None
    assert torch.equal(a.tensor, value[:7])
    assert torch.equal(b.tensor, value[:3])
    assert a.position.tolist() == list(range(7))
    assert a.phase.tolist() == ["prefill"] * 6 + ["decode"]
    assert a.launch.tolist() == [1, 1, 1, 1, 0, 0, 2]
    assert align(trace, "attn.norm", 1, 0) is None
    assert align(trace, "attn.out", 0, 0) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_expert_rows_come_back_to_token_and_slot(build, dtype):
    torch.manual_seed(0)
    ids = torch.stack([torch.randperm(5)[:2] for _ in range(9)])
    values = torch.randn(9, 2, 3).to(dtype)
    rows, token, slot, expert, offsets = build.permuted(ids, values.float(), 5)
    capture = build.capture(
        0,
        "moe.gate",
        rows.to(dtype),
        token + 100,
        slot=slot,
        expert=expert,
        geometry={"tile_m": 64, "expert_offsets": offsets},
    )
    got = align(build.trace([(capture, rows.to(dtype))], {"a": (1,)}), "moe.gate", 0, 0)
    assert got is not None
    assert got.axes == ("T", "S", "F")
    assert torch.equal(got.tensor.float(), values.float())
    assert got.position.tolist() == list(range(100, 109))
    assert np.array_equal(got.expert, ids.numpy())
    assert got.tile_m == 64
    # The number inside the expert: how many (token, slot) pairs before this one chose the same expert.
    flat = ids.flatten().tolist()
    assert got.row_in_expert.flatten().tolist() == [flat[:i].count(e) for i, e in enumerate(flat)]


def test_row_numbers_are_unknown_when_the_launch_was_filtered(build):
    capture = build.capture(
        0,
        "moe.gate",
        torch.ones(2, 3),
        [7, 7],
        slot=[0, 1],
        expert=[0, 2],
        geometry={"expert_offsets": [0, 40, 80, 90]},
    )
    got = align(build.trace([(capture, torch.ones(2, 3))]), "moe.gate", 0, 0)
    assert got is not None
    assert got.row_in_expert.tolist() == [[-1, -1]]
    assert got.tile_m is None


def test_rows_in_order_are_not_copied(build):
    value = torch.randn(6, 4)
    got = align(build.trace([(build.capture(0, "attn.norm", value, range(6)), value)]), "attn.norm", 0, 0)
    assert got is not None
    assert got.tensor.data_ptr() == value.data_ptr()


def test_a_packed_second_request_in_order_is_a_view_too(build):
    value = torch.randn(6, 4)
    capture = build.capture(0, "attn.norm", value, [0, 1, 0, 1, 2, 3], request=[0, 0, 1, 1, 1, 1])
    got = align(build.trace([(capture, value)], {"a": (1, 2), "b": (1, 2, 3, 4)}), "attn.norm", 0, 1)
    assert got is not None
    assert torch.equal(got.tensor, value[2:])
    assert got.tensor.data_ptr() == value[2:].data_ptr()


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ([0, 1, 1, 2], r"found 1 more than once"),
        ([0, 1, 4, 5], r"found 2, 3 missing"),
        ([0, 1, 2, 10**12], r"without gaps"),
    ],
)
def test_duplicate_and_missing_positions_are_named(build, position, message):
    value = torch.ones(4, 2)
    trace = build.trace([(build.capture(0, "attn.norm", value, position), value)])
    with pytest.raises(TraceError, match=message):
        align(trace, "attn.norm", 0, 0)


def test_missing_slot_is_named(build):
    capture = build.capture(0, "moe.gate", torch.ones(3, 2), [5, 5, 6], slot=[0, 1, 0], expert=[0, 1, 0])
    with pytest.raises(TraceError, match=r"\(6, 1\) missing"):
        align(build.trace([(capture, torch.ones(3, 2))]), "moe.gate", 0, 0)


def test_offsets_that_contradict_the_experts_are_refused(build):
    capture = build.capture(
        0, "moe.gate", torch.ones(2, 2), [0, 1], slot=[0, 0], expert=[1, 0], geometry={"expert_offsets": [0, 1, 2]}
    )
    with pytest.raises(TraceError, match="expert_offsets"):
        align(build.trace([(capture, torch.ones(2, 2))]), "moe.gate", 0, 0)


def test_captures_of_two_dtypes_and_partial_sums_are_refused(build):
    value = torch.ones(2, 2)
    mixed = [
        (build.capture(0, "attn.norm", value, [0, 1]), value),
        (build.capture(1, "attn.norm", value.bfloat16(), [2, 3]), value.bfloat16()),
    ]
    with pytest.raises(TraceError, match="one layout, dtype and width"):
        align(build.trace(mixed), "attn.norm", 0, 0)
    partial = build.capture(0, "attn.norm", value, [0, 1], reduction="partial")
    with pytest.raises(TraceError, match="partial sum"):
        align(build.trace([(partial, value)]), "attn.norm", 0, 0)
