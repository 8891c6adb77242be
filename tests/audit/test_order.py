"""Is the order of a weight's elements told from marks: transposed, rows in blocks, columns, and nothing else?"""

from __future__ import annotations

import pytest
import torch

from parity.audit.grid import e4m3_scale, significant_bits
from parity.audit.order import COLUMNS, ROWS, TRANSPOSED, mark_rows, moved_blocks, say_order, tell_order

SHAPES = [(6, 6), (12, 7), (384, 96), (1, 40), (257, 3)]


def drawn(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def told(read: torch.Tensor, own: torch.Tensor):
    return tell_order(
        rows=mark_rows(read), columns=mark_rows(read.T), own_rows=mark_rows(own), own_columns=mark_rows(own.T)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_each_order_is_told(shape: tuple[int, int]):
    own = drawn(shape)
    assert told(own, own) is None
    assert told(drawn(shape, 1), own) is None
    assert told(own.T.contiguous(), own) == (TRANSPOSED, None)
    for axis, name in ((0, ROWS), (1, COLUMNS)):
        if shape[axis] < 2:
            continue
        found = told(own.roll(-1, axis), own)
        assert found is not None
        assert found == (name, (*range(1, shape[axis]), 0))


def test_nothing_is_told_of_what_is_no_matrix():
    assert mark_rows(torch.zeros(0, 3)) == mark_rows(torch.zeros(4)) == b""
    assert told(torch.zeros(0, 3), torch.zeros(0, 3)) is None


def test_blocks_are_as_high_as_they_can_be():
    rolled = torch.arange(384).roll(-128).tolist()
    assert moved_blocks(rolled) == (128, (1, 2, 0))
    assert moved_blocks([1, 0, 2, 3]) == (1, (1, 0, 2, 3))
    assert say_order("rows", rolled) == "its blocks of 128 rows stand in the order 1, 2, 0"


def test_significant_bits_of_formats():
    values = drawn((64, 64)).flatten()
    for dtype, most in ((torch.float8_e5m2, 3), (torch.float8_e4m3fn, 4), (torch.bfloat16, 8), (torch.float16, 11)):
        assert significant_bits(values.to(dtype).float().view(torch.int32)) == most
        assert significant_bits((values.to(dtype).float() / 64).view(torch.int32)) == most
    assert significant_bits(values.view(torch.int32)) == 24
    assert significant_bits(torch.zeros(3).view(torch.int32)) == significant_bits(torch.zeros(0).view(torch.int32)) == 1


@pytest.mark.parametrize("shape", [(12, 384), (130, 129), (1, 64)])
def test_no_scale_is_read_into_other_values(shape: tuple[int, int]):
    values = drawn(shape)
    assert e4m3_scale(values) == e4m3_scale(values.bfloat16().float()) == ""
    rounded = (values / values.abs().max() * 448).to(torch.float8_e4m3fn).float() * values.abs().max() / 448
    assert e4m3_scale(rounded.bfloat16().float()) == "the tensor"
    assert e4m3_scale(torch.full(shape, torch.nan)) == e4m3_scale(torch.zeros(shape)) == ""
