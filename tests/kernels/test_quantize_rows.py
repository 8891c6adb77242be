"""Are E4M3 values and scales of rows those of the recipe, bit for bit?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from dataclasses import replace

import pytest
import torch

from parity.errors import DtypeError, ShapeError
from parity_kernels.launch import ceil_div
from parity_kernels.quantize_rows.launch import quantize_rows_launch
from parity_kernels.quantize_rows.op import quantize_rows
from parity_kernels.quantize_rows.reference import dequantized_bound, quantize_rows_reference

# Columns around one group of 128 and around the compiled tile of 4 groups; rows around the compiled tile of 4.
SIZES = [(0, 128), (1, 1), (3, 127), (4, 128), (5, 129), (1, 384), (9, 511), (2, 513), (17, 2048), (1030, 40)]


def _poisoned(n_rows: int, n_cols: int, device: torch.device) -> dict[str, torch.Tensor]:
    q = torch.full((n_rows, n_cols), float("nan"), device=device).to(torch.float8_e4m3fn)
    return {"out_q": q, "out_s": torch.full((n_rows, ceil_div(n_cols, 128)), float("nan"), device=device)}


def _rows(n_rows: int, n_cols: int, draw: torch.Generator, device: torch.device) -> torch.Tensor:
    """Rows of very different sizes, so that a scale of the wrong row or group shows; one row is zero."""
    x = torch.randn(n_rows, n_cols, generator=draw) * torch.logspace(-6, 4, max(n_rows, 1))[:n_rows, None]
    x *= 1 + 3 * torch.arange(n_cols).div(128, rounding_mode="floor")
    x[n_rows // 2 : n_rows // 2 + 1] = 0 if n_rows > 2 else 1
    return x.to(torch.bfloat16).to(device)


@pytest.mark.parametrize(("n_rows", "n_cols"), SIZES)
def test_bits_are_the_recipes(n_rows, n_cols, device, generator) -> None:
    """Every step is a correctly rounded fp32 operation or a cast to nearest even: the tolerance is none."""
    x = _rows(n_rows, n_cols, generator, device)
    q, s = quantize_rows(x, **_poisoned(n_rows, n_cols, device))
    scaled, scale = quantize_rows_reference(x.cpu(), compute_dtype=torch.float32)
    assert torch.equal(s.cpu(), scale)
    assert torch.equal(q.cpu().view(torch.uint8), scaled.to(torch.float8_e4m3fn).view(torch.uint8))


@pytest.mark.parametrize(("n_rows", "n_cols"), SIZES[1:])
def test_dequantized_values_are_within_half_a_step(n_rows, n_cols, device, generator) -> None:
    """Bound: dequantized_bound, from the format's 4 significant bits; and fp64's scale to 2^-23."""
    x = _rows(n_rows, n_cols, generator, device).cpu()
    q, s = (tensor.cpu() for tensor in quantize_rows(x.to(device)))
    wide = s.double().repeat_interleave(128, dim=1)[:, :n_cols]
    assert ((q.double() * wide - x.double()).abs() <= dequantized_bound(x, s)).all()
    exact = quantize_rows_reference(x)[1]
    assert ((s.double() - exact).abs() <= exact * 2.0**-23).all()


def test_scales_of_neighbouring_groups_swapped_are_seen(device, generator) -> None:
    """Planted: both checks above fail on it."""
    x = _rows(9, 384, generator, device).cpu()
    q, s = (tensor.cpu() for tensor in quantize_rows(x.to(device)))
    swapped = s[:, [1, 0, 2]]
    assert not torch.equal(swapped, quantize_rows_reference(x, compute_dtype=torch.float32)[1])
    wide = swapped.double().repeat_interleave(128, dim=1)
    assert ((q.double() * wide - x.double()).abs() > dequantized_bound(x, s)).any()


def test_quotients_at_midpoints_go_to_even(device) -> None:
    """amax 448 makes the scale 1; the others are halfway between two E4M3 values: 1.0625 (1, 1.125), 17 (16, 18)."""
    x = torch.zeros(1, 128, dtype=torch.bfloat16, device=device)
    x[0, :7] = torch.tensor([448.0, 1.0625, 1.1875, 17.0, -19.0, 2.0**-10, 3 * 2.0**-10])
    q, s = quantize_rows(x)
    assert s.item() == 1.0
    assert q[0, :7].float().tolist() == [448.0, 1.0, 1.25, 16.0, -20.0, 0.0, 2 * 2.0**-9]


def test_nan_stays_nan_and_is_no_neighbours(device, generator) -> None:
    x = _rows(4, 256, generator, device)
    x[1, 5] = float("nan")
    q, s = quantize_rows(x)
    assert q.float().isnan().sum() == 1
    assert q[1, 5].float().isnan()
    assert s.isfinite().all()


@pytest.mark.parametrize("block", [{"m": 1, "g": 1}, {"m": 2, "g": 4}, {"m": 8, "g": 2}])
def test_bits_do_not_depend_on_the_tile(block, device, generator) -> None:
    x = _rows(9, 700, generator, device)
    grid = (ceil_div(9, block["m"]), ceil_div(6, block["g"]))
    tiled = replace(quantize_rows_launch(n_rows=9, n_cols=700), grid=grid, block=block)
    for one, other in zip(quantize_rows(x), quantize_rows(x, launch=tiled), strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_strided_rows_work_and_strided_columns_are_refused(device, generator) -> None:
    wide = _rows(6, 400, generator, device)
    for one, other in zip(quantize_rows(wide[:, 100:250]), quantize_rows(wide[:, 100:250].contiguous()), strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    with pytest.raises(ShapeError, match="x"):
        quantize_rows(wide[:, ::2])
    with pytest.raises(DtypeError, match="x"):
        quantize_rows(wide.float())
    with pytest.raises(ShapeError, match="out_s"):
        quantize_rows(wide, out_s=torch.empty(6, 3, device=device))
