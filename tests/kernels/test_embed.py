"""Does the embedding copy the right rows, all of them, and nothing else?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from dataclasses import replace

import pytest
import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError
from parity_kernels.backend import interpreted
from parity_kernels.embed.launch import embed_launch
from parity_kernels.embed.op import embed
from parity_kernels.embed.reference import embed_reference

# Rows around both tiles (4 compiled; interpreted, the next power of two up to 1024); columns around the tile of 1024.
SIZES = [(0, 64), (1, 1), (3, 384), (4, 384), (5, 1023), (9, 1025), (1025, 20), (17, 2048)]


def _inputs(n_tokens: int, n_cols: int, draw: torch.Generator, device: torch.device, dtype: torch.dtype = torch.int64):
    weight = torch.randn(50, n_cols, generator=draw).to(torch.bfloat16)
    ids = torch.randint(0, 50, (n_tokens,), generator=draw).to(dtype)
    return ids.to(device), weight.to(device)


@pytest.mark.parametrize(("n_tokens", "n_cols"), SIZES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_are_copied(n_tokens, n_cols, dtype, device, generator) -> None:
    """A copy: the tolerance is none."""
    ids, weight = _inputs(n_tokens, n_cols, generator, device, dtype)
    poisoned = torch.full((n_tokens, n_cols), float("nan"), dtype=torch.bfloat16, device=device)
    out = embed(ids, weight, out=poisoned)
    assert out is poisoned
    assert torch.equal(out.double(), embed_reference(ids, weight))


def test_a_wrong_row_is_seen(device, generator) -> None:
    """Planted: the reference of ids off by one."""
    ids, weight = _inputs(9, 64, generator, device)
    assert not torch.equal(embed(ids, weight).double(), embed_reference((ids + 1) % 50, weight))


def test_a_grid_short_of_a_row_tile_leaves_the_poison(device, generator) -> None:
    """Planted: the op does not check coverage; the record says that the grid is short, and the poison stays."""
    ids, weight = _inputs(9, 64, generator, device)
    whole = embed_launch(n_tokens=9, n_cols=64)
    assert not whole.truncated
    tile = min(whole.block["m"], 4)
    short = replace(
        whole, grid=(2, whole.grid[1]), block={**whole.block, "m": tile}, covers={**whole.covers, "tokens": 2 * tile}
    )
    assert short.truncated
    out = embed(ids, weight, out=torch.full((9, 64), float("nan"), dtype=torch.bfloat16, device=device), launch=short)
    assert not out[: 2 * tile].isnan().any()
    assert out[2 * tile :].isnan().all()


def test_strided_table_and_output(device, generator) -> None:
    ids, weight = _inputs(7, 96, generator, device)
    wide = torch.full((7, 100), float("nan"), dtype=torch.bfloat16, device=device)
    out = embed(ids, weight[:, :40], out=wide[:, 10:50])
    assert torch.equal(out, weight[ids][:, :40])
    assert wide[:, :10].isnan().all()
    assert wide[:, 50:].isnan().all()


def test_what_it_refuses(device, generator) -> None:
    ids, weight = _inputs(4, 16, generator, device)
    with pytest.raises(DtypeError, match="ids"):
        embed(ids.float(), weight)
    with pytest.raises(DtypeError, match="weight"):
        embed(ids, weight.float())
    with pytest.raises(ShapeError, match="weight"):
        embed(ids, weight.t())
    with pytest.raises(ShapeError, match="out"):
        embed(ids, weight, out=torch.empty(5, 16, dtype=torch.bfloat16, device=device))
    with pytest.raises(ShapeError, match="ids"):
        embed(ids.repeat(2)[::2], weight)


@pytest.mark.parametrize("wrong", [-1, 50])
def test_an_id_outside_the_table(wrong, device, generator) -> None:
    """Refused where it can be looked at; on a CUDA device a row of zeros."""
    ids, weight = _inputs(3, 16, generator, device)
    ids[1] = wrong
    if device.type == "cpu" and interpreted():
        with pytest.raises(ValueRangeError, match="ids"):
            embed(ids, weight)
    else:
        assert (embed(ids, weight)[1] == 0).all()
