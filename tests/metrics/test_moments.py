"""Are the moments those of a plain fp64 computation, whatever the dtype, the blocking and the nonfinite values?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from parity.errors import DtypeError, ShapeError
from parity.metrics import READABLE, Moments, column_edges, pair_moments, pairs, slice_tables


def noisy_pair(rows: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    oracle = torch.randn(rows, width, generator=g)
    sut = oracle + 0.05 * torch.randn(rows, width, generator=g)
    return oracle.to(dtype), sut.to(dtype)


@pytest.mark.parametrize("dtype", READABLE, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 127), (65, 129), (7, 384)])
def test_moments_equal_fp64_sums(dtype, rows, width):
    oracle, sut = noisy_pair(rows, width, dtype)
    edges = column_edges(("D",), (width,)).edges
    got = pair_moments(oracle=oracle, sut=sut, edges=edges)
    for block, (a, b) in enumerate(pairwise(edges)):
        y, x = oracle.double()[:, a:b].numpy(), sut.double()[:, a:b].numpy()
        # Both are fp64 sums of at most 384 terms in another order: 384 * 2^-53 < 5e-14 relative to the sum of
        # magnitudes. Two formats of a byte are summed in fp32 first: 19 * 2^-24 (cells.h).
        off = 19 * 2**-24 if dtype in (torch.float8_e4m3fn, torch.float8_e5m2) else 5e-14
        for name, want, size in (
            ("xx", (x * x).sum(1), (x * x).sum(1)),
            ("yy", (y * y).sum(1), (y * y).sum(1)),
            ("dy", ((x - y) * y).sum(1), np.abs((x - y) * y).sum(1)),
            ("dd", ((x - y) ** 2).sum(1), ((x - y) ** 2).sum(1)),
        ):
            assert np.all(np.abs(getattr(got, name)[:, block] - want) <= off * size), name
        assert np.array_equal(got.max_abs[:, block], np.abs(x - y).max(1))
        assert np.array_equal(got.differ[:, block], (x != y).sum(1))
        assert np.array_equal(got.count[:, block], np.full(rows, b - a))


@pytest.mark.parametrize("native", ["0", "1"])
def test_blocking_changes_no_bit(monkeypatch, native):
    monkeypatch.setenv("PARITY_NATIVE", native)
    oracle, sut = noisy_pair(50, 200, torch.bfloat16)
    sut[17, 3] = torch.nan
    whole = pair_moments(oracle=oracle, sut=sut, edges=(0, 128, 200))
    monkeypatch.setattr(pairs, "_PLAIN_ELEMENTS", 7 * 200)
    monkeypatch.setattr(pairs, "_RUN_BYTES", 14 * 200)
    split = pair_moments(oracle=oracle, sut=sut, edges=(0, 128, 200))
    for name in Moments.__dataclass_fields__:
        assert np.array_equal(getattr(whole, name), getattr(split, name)), name


def test_extreme_fp32_values_neither_overflow_nor_vanish():
    oracle = torch.tensor([[3e38, -3e38], [1e-38, 1e-38], [1e-45, 0.0]])
    sut = torch.tensor([[-3e38, 3e38], [1e-38, 2e-38], [0.0, 0.0]])
    got = pair_moments(oracle=oracle, sut=sut)
    assert np.isfinite(got.dd).all()
    assert (got.dd > 0).all()
    assert got.nonfinite_sut.sum() == 0


def test_bits_are_compared_after_exact_widening():
    oracle = torch.tensor([[1.0, 0.0, torch.nan, torch.inf, 1.0]])
    sut = torch.tensor([[1.0, -0.0, torch.nan, -torch.inf, 1.0078125]], dtype=torch.bfloat16)
    got = pair_moments(oracle=oracle, sut=sut)
    assert got.differ.tolist() == [[3]]  # the negative zero, the infinity and the next bf16 after 1
    assert got.nonfinite_oracle.tolist() == [[2]]
    assert got.nonfinite_sut.tolist() == [[2]]
    assert got.finite.tolist() == [[3]]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_nothing_gives_moments_of_nothing(shape):
    got = pair_moments(oracle=torch.empty(shape), sut=torch.empty(shape))
    assert got.count.sum() == 0
    assert got.total(axis=1).shape == (shape[0],)


def test_shapes_never_broadcast():
    with pytest.raises(ShapeError, match="nothing broadcasts"):
        pair_moments(oracle=torch.ones(1, 4), sut=torch.ones(3, 4))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8])
def test_integers_and_packed_formats_are_refused(dtype):
    with pytest.raises(DtypeError):
        pair_moments(oracle=torch.ones(2, 4), sut=torch.ones(2, 4, dtype=dtype))


def test_slices_of_heads_that_are_no_divisor_of_128():
    columns = column_edges(("H", "K"), (3, 96))
    assert columns.edges == (0, 96, 128, 192, 256, 288)
    assert columns.head is not None
    assert columns.head.tolist() == [0, 1, 1, 2, 2]
    assert columns.block.tolist() == [0, 0, 1, 1, 2]
    oracle, sut = noisy_pair(10, 288)
    tables = {t.kind: t for t in slice_tables(pair_moments(oracle=oracle, sut=sut, edges=columns.edges), columns)}
    assert {k: len(t) for k, t in tables.items()} == {"row": 10, "head": 3, "columns": 3, "tensor": 1}
    for head in range(3):
        want = (oracle[:, 96 * head : 96 * head + 96].double() ** 2).sum()
        assert tables["head"].moments.yy[head] == pytest.approx(float(want), rel=1e-12)
    assert tables["columns"].moments.count.tolist() == [1280, 1280, 320]


def test_slices_of_experts_leave_out_what_is_not_kept():
    columns = column_edges(("F",), (160,))
    oracle, sut = noisy_pair(8, 160)
    experts = np.array([3, 0, 3, -1, 0, 3, 7, 7])
    keep = np.array([1, 1, 0, 1, 1, 1, 1, 1], bool)
    cells = pair_moments(oracle=oracle, sut=sut, edges=columns.edges)
    tables = {t.kind: t for t in slice_tables(cells, columns, experts=experts, keep=keep)}
    assert tables["row"].index.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert tables["expert"].index.tolist() == [0, 3, 7]
    assert tables["expert"].rows.tolist() == [2, 2, 2]
    assert tables["expert"].moments.yy[1] == pytest.approx(float((oracle[[0, 5]].double() ** 2).sum()), rel=1e-12)
    assert tables["tensor"].rows.tolist() == [7]


def test_no_rows_kept_still_gives_a_tensor_slice_of_nothing():
    columns = column_edges(("D",), (256,))
    oracle, sut = noisy_pair(4, 256)
    cells = pair_moments(oracle=oracle, sut=sut, edges=columns.edges)
    tables = slice_tables(cells, columns, experts=np.zeros(4, int), keep=np.zeros(4, bool))
    assert {t.kind: t.moments.count.sum() for t in tables} == {"row": 0, "columns": 0, "expert": 0, "tensor": 0}
