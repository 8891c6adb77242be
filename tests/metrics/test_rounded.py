"""Do the compiled kernel and the plain path give the same sums of a rounding bound, folded or cell by cell?"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from parity.floor import derive_floor
from parity.metrics import Moments, column_edges, fold_rounded, native_state, pairs, rounded_moments

DTYPES = (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
SHAPES = ((1, 1), (7, 1), (40, 3), (33, 300), (257, 16), (20, 129), (100, 700))
VALUES = ("normal", "repeated rows", "nonfinite", "exact oracle", "constant")


def pair(values: str, dtype: torch.dtype, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(rows + width)
    y = torch.randn(rows, width, generator=g, dtype=torch.float64) * torch.rand(rows, 1, generator=g) * 3
    if values == "repeated rows":
        y = y[torch.randint(0, max(1, rows // 3), (rows,), generator=g)]
    if values == "constant":
        y = y * 0 + 1.5
    x = y * (1 + 1e-6 * torch.randn(rows, width, generator=g, dtype=torch.float64))
    if values == "nonfinite":
        x[rows // 2, width // 2] = float("nan")
        y[0, 0] = float("nan")
    return (y if values == "exact oracle" else y.to(dtype)), x.to(dtype)


def assert_same(a: Moments, b: Moments, near: float) -> None:
    assert type(a) is type(b)
    for f in fields(a):
        u, v = getattr(a, f.name), getattr(b, f.name)
        # 70,000 additions in another order: 8e-12 of the terms' magnitudes; only dy has terms of both signs. Two
        # formats of a byte are summed in fp32 first: 19 * 2^-24 = 1.2e-6 (cells.h), and bounds follow from such sums.
        size = near * np.abs(v).max(initial=0) if f.name == "dy" else 0
        np.testing.assert_allclose(u, v, rtol=near, atol=size, err_msg=f.name)


@pytest.mark.skipif(native_state().kernel is None, reason="no C compiler here: there is the plain path only")
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_paths_and_both_ways_agree(monkeypatch, dtype, values):
    monkeypatch.setattr(pairs, "_RUN_BYTES", 12_000)
    for rows, width in SHAPES:
        y, x = pair(values, dtype, rows, width)
        near = 3e-6 if y.dtype == x.dtype and dtype in (torch.float8_e4m3fn, torch.float8_e5m2) else 1e-10
        edges = column_edges(("D",), (width,)).edges
        group = np.random.default_rng(1).integers(-1, 2, rows)
        group[-1] = 1
        for roundings in ("", ":4"):
            model = derive_floor(str(dtype) + roundings).model
            monkeypatch.setenv("PARITY_NATIVE", "0")
            plain = rounded_moments(oracle=y, sut=x, model=model, edges=edges)
            monkeypatch.setenv("PARITY_NATIVE", "1")
            cells = rounded_moments(oracle=y, sut=x, model=model, edges=edges)
            assert_same(cells, plain, near)
            names, _, columns = plain.groups(group)
            for native in "01":
                monkeypatch.setenv("PARITY_NATIVE", native)
                by_row, across = fold_rounded(oracle=y, sut=x, model=model, edges=edges, group=group, threads=2)
                assert_same(by_row, plain.total(axis=1), near)
                assert_same(across[names], columns, near)
