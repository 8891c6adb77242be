"""Does the block-FP8 dequantizer give each value its own block's scale, edge blocks included?"""

from __future__ import annotations

import pytest
import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError
from parity_oracles.checkpoint import dequantize_block_fp8

E4M3 = torch.float8_e4m3fn


def example(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = (torch.randn(rows, columns, generator=generator) * 50).to(E4M3)
    grid = -(-rows // 128), -(-columns // 128)
    # Powers of ten apart, so that no neighbour's scale can pass for the right one.
    return weight, torch.rand(grid, generator=generator) * 10.0 ** torch.arange(grid[0] * grid[1]).view(grid)


def one_by_one(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, int] = (128, 128)) -> torch.Tensor:
    out = torch.empty(weight.shape)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            out[i, j] = weight[i, j].float() * scale[i // block[0], j // block[1]]
    return out


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (129, 130), (192, 40), (40, 300), (127, 1), (257, 129)])
def test_each_value_takes_its_blocks_scale(rows: int, columns: int) -> None:
    weight, scale = example(rows, columns)
    # Bit for bit: both sides are one fp32 product.
    assert torch.equal(dequantize_block_fp8(weight, scale), one_by_one(weight, scale))


def test_other_block_sizes() -> None:
    weight, _ = example(70, 100)
    scale = torch.rand(3, 2) + 0.5
    assert torch.equal(dequantize_block_fp8(weight, scale, block=(32, 64)), one_by_one(weight, scale, (32, 64)))


def test_bf16_is_the_fp32_product_rounded_once() -> None:
    weight, scale = example(130, 140)
    exact = dequantize_block_fp8(weight, scale)
    rounded = dequantize_block_fp8(weight, scale, dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.bfloat16())
    # Planted: rounding the scale first as well is another result.
    assert not torch.equal(rounded, (weight.float() * one_by_one(torch.ones_like(weight), scale.bfloat16())).bfloat16())


def test_bf16_scales_count_as_the_numbers_they_are() -> None:
    weight, scale = example(130, 140)
    assert torch.equal(
        dequantize_block_fp8(weight, scale.bfloat16()), dequantize_block_fp8(weight, scale.bfloat16().float())
    )


def test_no_rows() -> None:
    assert dequantize_block_fp8(torch.empty(0, 130, dtype=E4M3), torch.empty(0, 2)).shape == (0, 130)


def test_inferring_the_block_from_the_grid_is_another_result() -> None:
    """Planted: 192 rows with a grid of two are blocks of 128 and 64, not of 96 and 96."""
    weight, scale = example(192, 128)
    inferred = weight.float().view(2, 96, 128) * scale.view(2, 1, 1)
    assert not torch.equal(dequantize_block_fp8(weight, scale), inferred.view(192, 128))


@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (3, 1), (2,)])
def test_a_grid_that_does_not_fit_is_refused(grid: tuple[int, ...]) -> None:
    weight, _ = example(200, 100)  # needs (2, 1); its transpose among the wrong ones
    with pytest.raises(ShapeError, match="edge blocks included"):
        dequantize_block_fp8(weight, torch.ones(grid), name="q_proj")


def test_wrong_dtypes_are_refused() -> None:
    weight, scale = example(8, 8)
    for values, scales in ((weight.float(), scale), (weight, scale.to(torch.uint8)), (weight, scale.double())):
        with pytest.raises(DtypeError, match="float8_e4m3fn values"):
            dequantize_block_fp8(values, scales)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_refused(bad: float) -> None:
    weight, scale = example(200, 100)
    scale[1, 0] = bad
    with pytest.raises(ValueRangeError, match="1 that are not"):
        dequantize_block_fp8(weight, scale)
