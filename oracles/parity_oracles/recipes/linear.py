"""What does a linear layer give in each recipe? One matrix product, exact, in BF16 or in block-FP8.

Letters: T rows, K reduced, N outputs, B = ceil(K/128) blocks of K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from parity_oracles.checkpoint.block_fp8 import dequantize_block_fp8
from parity_oracles.recipes.arithmetic import BLOCK, Arithmetic, Order
from parity_oracles.recipes.formats import quantize_activation, quantize_weight, round_q8_0
from parity_oracles.recipes.tensor_core import sum_bf16, sum_fp8


@dataclass(frozen=True)
class Matrix:
    """A weight [N, K]: E4M3 values with their block scales, or a plain floating-point tensor with scale None.

    The forms that an arithmetic multiplies with are made once and kept.
    """

    values: torch.Tensor
    scale: torch.Tensor | None = None

    @cached_property
    def exact32(self) -> torch.Tensor:
        """[N, K] fp32, dequantized."""
        if self.scale is None:
            return self.values.float()
        return dequantize_block_fp8(self.values, self.scale)

    @cached_property
    def as_bf16(self) -> torch.Tensor:
        """[N, K] fp32 numbers that are BF16 values: dequantized, then rounded once."""
        return self.exact32.bfloat16().float()

    @cached_property
    def as_q8_0(self) -> torch.Tensor:
        """[N, K] fp32 numbers on the grid of Q8_0."""
        return round_q8_0(self.exact32)

    @cached_property
    def as_e4m3(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, K] fp32 numbers on the E4M3 grid and [B, N] fp32: the scale of each output in each block of K."""
        values, scale = (self.values, self.scale) if self.scale is not None else quantize_weight(self.values)
        return values.float(), scale.repeat_interleave(BLOCK, 0)[: len(values)].T.contiguous()


@dataclass(frozen=True)
class Operand:
    """Rows ready to be multiplied: [T, K] values and, in block-FP8, their [T, B] scales."""

    values: torch.Tensor
    scale: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> Operand:
        """The rows at `rows`, in that order."""
        return Operand(self.values[rows], None if self.scale is None else self.scale[rows])


PREPARED_ROWS = 256
"""Rows quantized at a time; bounds the memory of the steps between."""

SCALED_ROWS = 128
"""Rows of a product that are scaled at a time; bounds the memory of their scales' outer product."""


def prepare(x: torch.Tensor, arithmetic: Arithmetic, order: Order) -> Operand:
    """Rows [T, K] as the linear layers of `arithmetic` read them: quantized per row and 128 columns in block-FP8."""
    if len(x) > PREPARED_ROWS:  # a row's own arithmetic: its neighbours only cost memory
        parts = [prepare(part, arithmetic, order) for part in x.split(PREPARED_ROWS)]
        scales = [part.scale for part in parts if part.scale is not None]
        return Operand(torch.cat([part.values for part in parts]), torch.cat(scales) if scales else None)
    x = arithmetic.enter(x)
    if arithmetic.linear == "q8_0":
        return Operand(round_q8_0(x, half_even=order.half_even))
    if arithmetic.linear == "bf16":
        return Operand(x.bfloat16().to(arithmetic.compute))
    if arithmetic.linear == "fp8_block":
        return Operand(*quantize_activation(x, reciprocal=order.reciprocal))
    return Operand(x)


def multiply(x: Operand, matrix: Matrix, arithmetic: Arithmetic, order: Order) -> torch.Tensor:
    """`x @ matrix.T`, [T, K] by [N, K] to [T, N] in the compute dtype, not yet rounded to the boundary.

    Accumulates in fp32 (fp64 for fp64): in block-FP8 one dot product a 128-block of K over the bare E4M3 values, times
    the product of its two scales, added in the order of K.
    """
    if arithmetic.linear == "fp8_block":
        return _multiply_fp8(x, matrix, order)
    if arithmetic.linear == "bf16":
        if arithmetic.ggml is not None:  # its CPU backend has no matrix unit
            return _multiply_plain(x.values, matrix.as_bf16, order)
        return multiply_bf16(x.values, matrix.as_bf16, order)
    if arithmetic.linear == "q8_0":
        return _multiply_plain(x.values, matrix.as_q8_0, order)
    return _multiply_plain(x.values, matrix.exact32.to(arithmetic.compute), order)


def multiply_bf16(x: torch.Tensor, weight: torch.Tensor, order: Order) -> torch.Tensor:
    """`x @ weight.T`, [T, K] by [N, K], fp32 numbers that are BF16 values, summed as the order says; not rounded."""
    if order.tensor_core is None:
        return _multiply_plain(x, weight, order)
    width = x.shape[1]
    return _sum([sum_bf16(x[:, a:b], weight[:, a:b]) for a, b in _spans(width, -(-width // order.split_k))])


def _multiply_plain(x: torch.Tensor, weight: torch.Tensor, order: Order) -> torch.Tensor:
    if order.dot is None and order.split_k == 1:
        return x @ weight.T
    parts = []
    for start, stop in _spans(x.shape[1], -(-x.shape[1] // order.split_k)):
        parts.append(dot(x[:, start:stop], weight[:, start:stop], order.dot))
    return _sum(parts)


def _multiply_fp8(x: Operand, matrix: Matrix, order: Order) -> torch.Tensor:
    weight, weight_scale = matrix.as_e4m3
    assert x.scale is not None
    blocks = len(weight_scale)
    parts: list[torch.Tensor] = []
    for first, last in _spans(blocks, -(-blocks // order.split_k)):
        total = None
        for block in range(first, last):
            columns = slice(block * BLOCK, (block + 1) * BLOCK)
            if order.tensor_core is not None:
                part = sum_fp8(x.values[:, columns], weight[:, columns], promote=order.tensor_core)
            else:
                part = dot(x.values[:, columns], weight[:, columns], order.dot)
            row_scale, column_scale = x.scale[:, block, None], weight_scale[block]
            if order.scales_apart:
                part = part.mul_(row_scale).mul_(column_scale)
            else:
                part = scale_rows(part, row_scale, column_scale)
            total = part if total is None else total.add_(part)
        assert total is not None
        parts.append(total)
    return _sum(parts)


def scale_rows(part: torch.Tensor, row_scale: torch.Tensor, column_scale: torch.Tensor) -> torch.Tensor:
    """`part`, [T, N], times the product of [T, 1] and [N] scales, in place; some rows at a time: the product of the
    scales alone is as large as `part`."""
    for rows, scales in zip(part.split(SCALED_ROWS), row_scale.split(SCALED_ROWS), strict=True):
        rows.mul_(scales * column_scale)
    return part


def dot(x: torch.Tensor, weight: torch.Tensor, length: int | None) -> torch.Tensor:
    """[T, k] by [N, k] to [T, N], summing `length` values of k at a time, in order; None: all in one product."""
    return _sum([x[:, a:b] @ weight[:, a:b].T for a, b in _spans(x.shape[1], length or x.shape[1])])


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, step):
        yield start, min(start + step, length)
