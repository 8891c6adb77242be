"""What numbers does a block-FP8 weight stand for? Its dequantization, edge blocks included."""

from __future__ import annotations

import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError

E4M3 = torch.float8_e4m3fn
SCALE_DTYPES = (torch.float32, torch.bfloat16)


def scale_grid(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    """Blocks that cover a matrix of `shape` [N, K]: partial blocks at the edges count as whole ones."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def dequantize_block_fp8(
    weight: torch.Tensor,
    scale_inv: torch.Tensor,
    *,
    block: tuple[int, int] = (128, 128),
    dtype: torch.dtype = torch.float32,
    name: str = "weight",
) -> torch.Tensor:
    """Multiply each block of `weight` by its scale.

    weight: [N, K] float8_e4m3fn. scale_inv: [ceil(N/block[0]), ceil(K/block[1])] fp32 (or bf16, which fp32 holds
    exactly). Block (i, j) covers rows i*block[0].. and columns j*block[1].., fewer at the edges: the block size is a
    property of the format and is never inferred from the grid (inferring it makes 192 rows wrong by 4 % in HF).
    dtype: fp32: one fp32 product a value. bf16: that product rounded once, to nearest even.
    Returns [N, K] in `dtype`; NaN codes stay NaN.
    Raises DtypeError, ShapeError; ValueRangeError for a scale that is not finite.
    Source: DeepSeek-V3 report, arXiv 2412.19437, section 3.3.2; `quant_method: fp8` of HF checkpoints.
    """
    if weight.dtype != E4M3 or scale_inv.dtype not in SCALE_DTYPES:
        raise DtypeError(
            place=name,
            expected="float8_e4m3fn values with fp32 or bf16 scales",
            found=f"{weight.dtype} with {scale_inv.dtype}",
            next_step="Check which quantization this checkpoint uses.",
        )
    if weight.dim() != 2 or tuple(scale_inv.shape) != scale_grid(tuple(weight.shape), block):
        raise ShapeError(
            place=f"scales of {name}",
            expected=f"one scale for each {block[0]}x{block[1]} block of a matrix [N, K], edge blocks included",
            found=f"values {list(weight.shape)} with scales {list(scale_inv.shape)}",
            next_step="Check weight_block_size in config.json, and whether the scales are transposed.",
        )
    scale = scale_inv.float()
    if not bool(scale.isfinite().all()):
        raise ValueRangeError(
            place=f"scales of {name}",
            expected="finite numbers",
            found=f"{int((~scale.isfinite()).sum())} that are not",
            next_step="The checkpoint is damaged; convert or fetch it again.",
        )
    rows, columns = weight.shape
    wide = scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return (weight.float() * wide).to(dtype)
