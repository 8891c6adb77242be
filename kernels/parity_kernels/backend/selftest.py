"""Do interpreted results count in this process? Exhaustive checks of what the shim claims, against other sources.

Expected values come from torch's CPU kernels (bf16) and from the definition of E4M3 (Micikevicius et al. 2022,
arXiv 2209.05433, table 1), never from ml_dtypes, which the shim is built on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import parity_kernels.backend  # noqa: F401  isort: skip

import numpy as np
import torch
import triton
import triton.language as tl

from parity.errors import RunnerError
from parity_kernels.backend.device import interpreted


@triton.jit
def cast_kernel(src, dst, n, BLOCK: tl.constexpr):
    """dst[i] = src[i], cast to dst's element type."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(src + offsets, mask=offsets < n, other=0.0)
    tl.store(dst + offsets, value.to(dst.dtype.element_ty), mask=offsets < n)


@triton.jit
def arithmetic_kernel(a, b, added, product, larger, less, n, BLOCK: tl.constexpr):
    """bf16 sum, product, maximum and comparison; elements past n are loaded as 1.5 and must not be stored."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(a + offsets, mask=offsets < n, other=1.5)
    y = tl.load(b + offsets, mask=offsets < n, other=1.5)
    tl.store(added + offsets, x + y, mask=offsets < n)
    tl.store(product + offsets, x * y, mask=offsets < n)
    tl.store(larger + offsets, tl.maximum(x, y), mask=offsets < n)
    tl.store(less + offsets, (x < y).to(tl.int8), mask=offsets < n)


@triton.jit
def masked_sum_kernel(src, out, n, BLOCK: tl.constexpr):
    """Sum over blocks with a run-time loop bound; masked elements count 2.0 each."""
    total = tl.zeros((1,), dtype=tl.float32)
    for start in range(0, n, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.load(src + offsets, mask=offsets < n, other=2.0).to(tl.float32), axis=0)
    tl.store(out + tl.arange(0, 1), total)


@triton.jit
def dot_kernel(a, b, out, SIZE: tl.constexpr):
    """out = a @ b.T of two [SIZE, SIZE] tiles, fp32."""
    row = tl.arange(0, SIZE)
    tile = row[:, None] * SIZE + row[None, :]
    tl.store(out + tile, tl.dot(tl.load(a + tile), tl.trans(tl.load(b + tile)), out_dtype=tl.float32))


@triton.jit
def tile_kernel(src, dst, row_index, row_stride, col_stride, n_rows, n_cols, M: tl.constexpr, N: tl.constexpr):
    """dst[i, j] = src[row_index[i] * row_stride + j * col_stride] for i < n_rows, j < n_cols; 5.0 where j is n_cols."""
    i, j = tl.arange(0, M), tl.arange(0, N)
    rows = tl.load(row_index + i, mask=i < n_rows, other=0)
    src_tile = src + (rows * row_stride)[:, None] + (j * col_stride)[None, :]
    tile = tl.load(src_tile, mask=(i < n_rows)[:, None] & (j < n_cols)[None, :], other=5.0)
    dst_tile = dst + (i * N)[:, None] + j[None, :]
    tl.store(dst_tile, tile, mask=(i < n_rows)[:, None] & (j < n_cols + 1)[None, :])


@triton.jit
def scatter_kernel(src, dst, row_index, row_stride, n_rows, n_cols, M: tl.constexpr, N: tl.constexpr):
    """dst[row_index[i] * row_stride + j] = src[i, j] where row_index[i] >= 0."""
    i, j = tl.arange(0, M), tl.arange(0, N)
    rows = tl.load(row_index + i, mask=i < n_rows, other=-1)
    ok = (rows >= 0)[:, None] & (j < n_cols)[None, :]
    tile = tl.load(src + i[:, None] * N + j[None, :], mask=ok)
    tl.store(dst + (rows * row_stride)[:, None] + j[None, :], tile, mask=ok)


# Any: pyright reads a kernel's own signature, not the launcher's.
_arithmetic: Any = arithmetic_kernel
_cast: Any = cast_kernel
_dot: Any = dot_kernel
_masked_sum: Any = masked_sum_kernel
_scatter: Any = scatter_kernel
_tile: Any = tile_kernel


@functools.cache
def verify_interpreter() -> None:
    """Raise RunnerError unless this process's interpreter is exact for bf16 and E4M3. Once a process, below 1 s.

    Returns at once when kernels are compiled.
    """
    if not interpreted():
        return
    failures = [f"{name}: {complaint}" for name, check in CHECKS.items() if (complaint := check())]
    if failures:
        raise RunnerError(
            place="Triton's interpreter (parity_kernels.backend.selftest)",
            expected="casts, arithmetic, dots, masked loads and stores of bf16 and fp8 that agree with the formats",
            found="; ".join(failures),
            next_step=f"Interpreted results do not count here (triton {triton.__version__}); use a tested version.",
        )


def _cast_all(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.zeros(values.numel(), dtype=dtype)
    _cast[(1,)](values, out, values.numel(), BLOCK=triton.next_power_of_2(values.numel()))
    return out


def _differing(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """'' when equal bit for bit (any NaN equals any NaN, -0 is not 0), else how many differ and the first."""
    found, wanted = found.float(), wanted.float()
    same = (found.view(torch.int32) == wanted.view(torch.int32)) | (found.isnan() & wanted.isnan())
    if bool(same.all()):
        return ""
    first = int((~same).nonzero()[0])
    return f"{int((~same).sum())} of {same.numel()} wrong, first {found[first].item()!r} for {wanted[first].item()!r}"


def _bits(patterns: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(patterns.astype(np.uint32).view(np.float32))


def e4m3_values() -> np.ndarray:
    """The 127 non-negative finite E4M3 values in order of their codes 0x00..0x7E, from the format's definition."""
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    return np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))


def check_fp32_to_bf16() -> str:
    """All 65536 upper halves, each with lower halves below, at and above the tie."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    values = _bits(np.concatenate([upper | low for low in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]))
    return _differing(_cast_all(values, torch.bfloat16), values.to(torch.bfloat16))


def check_bf16_to_fp32() -> str:
    """All 65536 values."""
    codes = np.arange(1 << 16, dtype=np.uint32)
    values = torch.from_numpy(codes.astype(np.uint16).view(np.int16)).view(torch.bfloat16)
    return _differing(_cast_all(values, torch.float32), _bits(codes << 16))


def check_fp32_to_e4m3() -> str:
    """Every value, every midpoint, the fp32 neighbours of both, both signs, and saturation; NaN stays NaN."""
    table = e4m3_values().astype(np.float32)
    middle = (table[1:] + table[:-1]) / 2  # exact in fp32; ties go to the even code
    even = np.where(np.arange(126) % 2 == 0, table[:-1], table[1:])
    below, above = np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))
    beyond = np.array([449, 463.9, 464, 464.1, 480, 1e5, 3e38, np.inf], dtype=np.float32)
    values = np.concatenate([table, middle, below, above, np.nextafter(table[1:], np.float32(0)), beyond])
    wanted = np.concatenate([table, even, table[:-1], table[1:], table[1:], np.full(beyond.size, 448)])
    values, wanted = np.concatenate([values, -values, [np.nan]]), np.concatenate([wanted, -wanted, [np.nan]])
    found = _cast_all(torch.from_numpy(values.astype(np.float32)), torch.float8_e4m3fn)
    return _differing(found, torch.from_numpy(wanted.astype(np.float32)))


def check_e4m3_to_float() -> str:
    """All 256 codes, to fp32 and to bf16."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    half = np.append(e4m3_values(), np.nan).astype(np.float32)
    wanted = torch.from_numpy(np.concatenate([half, -half]))
    return _differing(_cast_all(codes, torch.float32), wanted) or _differing(_cast_all(codes, torch.bfloat16), wanted)


def check_bf16_to_e4m3() -> str:
    """All finite bf16 values: the nearest E4M3 value by search, ties to the even code."""
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    values = codes[codes.isfinite()]
    table = e4m3_values()
    wide = values.double().numpy()
    clipped = np.minimum(np.abs(wide), table[-1])
    right = np.searchsorted(table, clipped).clip(1, 126)
    gap_left, gap_right = clipped - table[right - 1], table[right] - clipped
    code = np.where((gap_left < gap_right) | ((gap_left == gap_right) & (right % 2 == 1)), right - 1, right)
    wanted = np.copysign(table[code], wide).astype(np.float32)
    return _differing(_cast_all(values, torch.float8_e4m3fn), torch.from_numpy(wanted))


def check_bf16_arithmetic() -> str:
    """Add, multiply, maximum, compare of 3001 pairs against torch; the buffer behind them stays untouched."""
    draw = torch.Generator().manual_seed(7)
    n, padded = 3001, 4096
    a, b = (torch.randn(n, generator=draw).mul(3).to(torch.bfloat16) for _ in range(2))
    b[::5] = a[::5]
    outs = [torch.full((padded,), -7.0, dtype=torch.bfloat16) for _ in range(3)]
    less = torch.full((padded,), -7, dtype=torch.int8)
    _arithmetic[(1,)](a, b, *outs, less, n, BLOCK=padded)
    expected = (a + b, a * b, torch.maximum(a, b))
    for name, found, wanted in zip(("add", "multiply", "maximum"), outs, expected, strict=True):
        if complaint := _differing(found[:n], wanted):
            return f"{name} {complaint}"
    if not torch.equal(less[:n], (a < b).to(torch.int8)):
        return "compare wrong"
    return "" if all(bool((x[n:] == -7).all()) for x in (*outs, less)) else "a masked store wrote"


def check_masked_sum() -> str:
    """A loop with a run-time bound over bf16; the masked rest of the last block is `other`."""
    values, out = torch.ones(700, dtype=torch.bfloat16), torch.zeros(1)
    _masked_sum[(1,)](values, out, 700, BLOCK=256)
    wanted = 700 + 2.0 * (768 - 700)
    return "" if out.item() == wanted else f"{out.item()} for {wanted}"


def check_dot() -> str:
    """Tiles whose products and sums are exact in fp32: bf16 and E4M3 integers up to 16, so any order agrees."""
    draw = torch.Generator().manual_seed(8)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        a, b = (torch.randint(-16, 17, (64, 64), generator=draw).float().to(dtype) for _ in range(2))
        out = torch.empty(64, 64)
        _dot[(1,)](a, b, out, SIZE=64)
        if complaint := _differing(out.flatten(), (a.double() @ b.double().T).float().flatten()):
            return f"{dtype} {complaint}"
    return ""


def check_tiles() -> str:
    """Loads of regular, gathered, transposed and repeated rows, partly masked; scatters of rows; all bit for bit.

    Memory is a bf16 buffer of distinct values with a stretch before and behind that must not change.
    """
    memory = torch.arange(5000, dtype=torch.int16).view(torch.bfloat16)
    draw = torch.Generator().manual_seed(9)
    rows, cols = 16, 8
    for name, index, row_stride, col_stride in (
        ("regular", torch.arange(rows), 40, 1),
        ("transposed", torch.arange(rows), 1, 40),
        ("strided both ways", torch.arange(rows), 80, 3),
        ("reversed", torch.arange(rows).flip(0), 40, 1),
        ("gathered", torch.randperm(100, generator=draw)[:rows], 40, 1),
        ("gathered across", torch.randperm(30, generator=draw)[:rows], 1, 40),
        ("gathered, strided", torch.randperm(30, generator=draw)[:rows], 40, 3),
        ("repeated", torch.zeros(rows, dtype=torch.int64), 40, 1),
        ("overlapping", torch.arange(rows), 1, 1),
    ):
        for n_rows, n_cols in ((16, 7), (16, 3), (11, 7), (1, 1), (11, 0), (0, 7)):
            out = torch.full((rows, cols), -3.0, dtype=torch.bfloat16)
            _tile[(1,)](memory, out, index.int(), row_stride, col_stride, n_rows, n_cols, M=rows, N=cols)
            wanted = torch.full_like(out, -3.0)
            places = index[:n_rows, None] * row_stride + torch.arange(n_cols)[None, :] * col_stride
            wanted[:n_rows, :n_cols] = memory[places]
            wanted[:n_rows, n_cols] = 5.0
            if not torch.equal(out.view(torch.int16), wanted.view(torch.int16)):
                return f"{name} tile, {n_rows} rows, {n_cols} columns"
    source = torch.randn(rows, cols, generator=draw).to(torch.bfloat16)
    for name, index in (
        ("in order", torch.arange(rows)),
        ("permuted", torch.randperm(60, generator=draw)[:rows]),
        ("some left out", torch.randperm(60, generator=draw)[:rows].where(torch.arange(rows) % 3 > 0, -1)),
    ):
        target = torch.full((62, 20), -3.0, dtype=torch.bfloat16)
        wanted = target.clone()
        _scatter[(1,)](source, target[1], index.int(), 20, rows, 6, M=rows, N=cols)
        wanted[1 + index[index >= 0], :6] = source[index >= 0, :6]
        if not torch.equal(target, wanted):
            return f"scatter of rows {name}"
    return ""


CHECKS: dict[str, Callable[[], str]] = {
    "fp32 to bf16": check_fp32_to_bf16,
    "bf16 to fp32": check_bf16_to_fp32,
    "fp32 to e4m3": check_fp32_to_e4m3,
    "e4m3 to fp32 and bf16": check_e4m3_to_float,
    "bf16 to e4m3": check_bf16_to_e4m3,
    "bf16 arithmetic": check_bf16_arithmetic,
    "masked sum": check_masked_sum,
    "dot": check_dot,
    "tiles": check_tiles,
}
