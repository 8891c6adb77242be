"""Is a block that is small beside its row measured by its own size, alike with and without the compiled kernel?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.floor import derive_floor
from parity.metrics import RoundedMoments, RowRepeats, column_edges, fold_rounded, size_cuts, sized_rows
from parity.metrics.plain_rounded import plain_fold

GIANT = {"float16": 1e4, "float8_e4m3fn": 300.0}


def values(width: int, dtype: str) -> torch.Tensor:
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
    return 0.03 * x if dtype == "float8_e4m3fn" else 0.1 * x


def block(x: torch.Tensor, giant: float) -> None:
    x[3, : x.shape[1] // 3] *= giant


def channel(x: torch.Tensor, giant: float) -> None:
    x[:, x.shape[1] // 2] *= giant


def element(x: torch.Tensor, giant: float) -> None:
    x[5, x.shape[1] // 2] *= giant


def holes(x: torch.Tensor, giant: float) -> None:
    x[6], x[7, x.shape[1] // 2 :], x[8, x.shape[1] // 2] = 0, 0, float("nan")


def measured(
    x: torch.Tensor, y: torch.Tensor, dtype: str, *, native: bool
) -> tuple[tuple[int, ...], RoundedMoments, RoundedMoments]:
    to = getattr(torch, dtype)
    a, b = (side.clamp(-440, 440).to(to) if dtype == "float8_e4m3fn" else side.to(to) for side in (x, y))
    picked = torch.stack([a[row] for row in sized_rows(len(a))])
    edges = column_edges(("D",), (x.shape[1],), size_cuts(picked)).edges
    model = derive_floor(dtype).model
    if native:
        return edges, *fold_rounded(oracle=a, sut=b, model=model, edges=edges)
    return edges, *plain_fold(a, b, model, edges, (np.zeros(len(a), np.int64), 1), RowRepeats(), None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16", "float8_e4m3fn", "float64"])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 128, 129, 385])
@pytest.mark.parametrize("plant", [block, channel, element, holes])
def test_both_paths_agree(dtype, width, plant):
    x = values(width, dtype)
    plant(x, GIANT.get(dtype, 1e6))
    y = x.clone()
    y[3:9, width // 3 :] *= 1.5
    found = [measured(x, y, dtype, native=native)[1:] for native in (True, False)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.own, other.own, rtol=1e-6)  # fp64 sums in another order


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("plant", [block, channel, element])
def test_a_wrong_block_beside_giants_is_over_what_its_size_explains(dtype, plant):
    x = values(385, dtype)
    plant(x, GIANT.get(dtype, 1e6))
    # Errors in proportion to each element: what element-wise arithmetic and products by blocks leave.
    honest = x * (1 + 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert measured(x, honest, dtype, native=True)[1].own.max() == 0
    wrong = honest.clone()
    wrong[3:6, 193:256] *= 1.1
    _, rows, across = measured(x, wrong, dtype, native=True)
    assert set(np.flatnonzero(rows.own).tolist()) == {3, 4, 5}
    assert across.own.max() == rows.own.max() > 5


def test_columns_are_cut_where_their_size_changes():
    x = torch.randn(64, 300, generator=torch.Generator().manual_seed(0))
    assert size_cuts(x[sized_rows(64)]) == ()
    x[:, 100:200] *= 1000
    x[:, 250] *= 1000
    assert size_cuts(x[sized_rows(64)]) == (100, 200, 250, 251)
    assert column_edges(("D",), (300,), (100, 200)).edges == (0, 100, 128, 200, 256, 300)
    assert size_cuts(x[:0]) == ()
    assert sized_rows(16) == []
    assert sized_rows(40_000_000)[-1] == 39_999_999
    noisy = torch.randn(17, 4096) * 10 ** (6 * torch.rand(4096))
    assert size_cuts(noisy) == ()
