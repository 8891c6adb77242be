"""Are the linears right to their bounds in every block of N and K, and is a row the same in any batch?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from dataclasses import replace

import pytest
import torch

from parity.errors import DtypeError, ShapeError
from parity_kernels.backend import interpreted
from parity_kernels.launch import ceil_div
from parity_kernels.linear.launch import linear_launch
from parity_kernels.linear.op import linear_bf16, linear_fp8
from parity_kernels.linear.reference import linear_bf16_reference, linear_bound, linear_fp8_reference

# T, N, K around compiled tiles (64 or 128 rows, 32 or 128 columns), blocks of 128 and the fixture's widths.
SIZES = [
    (0, 128, 128), (1, 1, 1), (1, 384, 384), (3, 127, 129), (5, 129, 127), (17, 160, 384), (63, 31, 260),
    (64, 33, 256), (65, 384, 160), (129, 130, 300), (520, 200, 130),
]  # fmt: skip


def _bits(op: str) -> int:
    """Significant bits of an accumulation step: fp32 interpreted, the tensor core's own compiled (see linear_bound)."""
    return 24 if interpreted() else {"fp8": 14, "bf16": 22}[op]


def _fp8_inputs(rows: int, cols: int, depth: int, draw: torch.Generator, device: torch.device) -> tuple:
    """Scales differ by factors of 2 to 4 between neighbouring blocks, both ways: a transposed or shifted grid shows."""
    q = (torch.randn(rows, depth, generator=draw) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    weight = (torch.randn(cols, depth, generator=draw) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    down, across = ceil_div(cols, 128), ceil_div(depth, 128)
    s = 2.0 ** -(torch.arange(rows)[:, None] % 5 + 2 * torch.arange(across)[None, :] % 7) * (
        1 + torch.rand(rows, across, generator=draw)
    )
    scale = 2.0 ** -(2 * torch.arange(down)[:, None] % 5 + (2 - torch.arange(across)[None, :]) % 3 + 10.0)
    return tuple(tensor.to(device) for tensor in (q, s, weight, scale * (1 + torch.rand(down, across, generator=draw))))


def _fp8_bound(q, s, weight, scale) -> tuple[torch.Tensor, torch.Tensor]:
    reference = linear_fp8_reference(q, s, weight, scale)
    magnitude = linear_fp8_reference(q.double().abs(), s, weight.double().abs(), scale)
    bound = linear_bound(reference, magnitude, q.shape[1], accumulator_bits=_bits("fp8"), out_dtype=torch.bfloat16)
    return reference, bound


def _poison(rows: int, cols: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.full((rows, cols), float("nan"), dtype=dtype, device=device)


@pytest.mark.parametrize(("rows", "cols", "depth"), SIZES)
def test_fp8_is_within_its_bound(rows, cols, depth, device, generator) -> None:
    """linear_bound: sums in any order, tensor-core bits where compiled, one rounding; derived in reference.py."""
    inputs = _fp8_inputs(rows, cols, depth, generator, device)
    reference, bound = _fp8_bound(*inputs)
    out = linear_fp8(*inputs, out=_poison(rows, cols, device))
    assert out.shape == (rows, cols)
    assert ((out.double() - reference).abs() <= bound).all()  # NaN <= anything is False: poison fails


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "cols", "depth"), SIZES)
def test_bf16_is_within_its_bound(rows, cols, depth, out_dtype, device, generator) -> None:
    x, weight = (torch.randn(n, depth, generator=generator).to(torch.bfloat16).to(device) for n in (rows, cols))
    reference, magnitude = linear_bf16_reference(x, weight), linear_bf16_reference(x.abs(), weight.abs())
    bound = linear_bound(reference, magnitude, depth, accumulator_bits=_bits("bf16"), out_dtype=out_dtype)
    out = linear_bf16(x, weight, out_dtype=out_dtype, out=_poison(rows, cols, device, out_dtype))
    assert out.dtype == out_dtype
    assert ((out.double() - reference).abs() <= bound).all()


@pytest.mark.parametrize("defect", ["scale columns", "scale rows", "one scale", "activation groups", "last group lost"])
def test_block_defects_exceed_the_bound(defect, device, generator) -> None:
    """Planted in the reference, so that what is compared with is wrong and the bound has to notice."""
    q, s, weight, scale = _fp8_inputs(20, 300, 300, generator, device)
    out = linear_fp8(q, s, weight, scale).double()
    if defect == "scale columns":
        scale = scale[:, [1, 0, 2]]
    elif defect == "scale rows":
        scale = scale[[1, 0, 2]]
    elif defect == "one scale":
        scale = scale.clone()
        scale[1, 0] *= 1.25
    elif defect == "activation groups":
        s = s[:, [0, 2, 1]]
    else:
        weight = torch.cat((weight[:, :256].float(), torch.zeros(300, 44, device=device)), dim=1).to(weight.dtype)
    reference, bound = _fp8_bound(q, s, weight, scale)
    assert ((out - reference).abs() > bound).any()


def test_a_dropped_column_of_k_exceeds_the_bf16_bound(device, generator) -> None:
    """Planted: the last of 129 columns of K, as a mask off by one would lose it."""
    x, weight = (torch.randn(9, 129, generator=generator).to(torch.bfloat16).to(device) for _ in range(2))
    out = linear_bf16(x, weight, out_dtype=torch.float32).double()
    lost, magnitude = linear_bf16_reference(x[:, :128], weight[:, :128]), linear_bf16_reference(x.abs(), weight.abs())
    bound = linear_bound(lost, magnitude, 129, accumulator_bits=_bits("bf16"), out_dtype=torch.float32)
    assert ((out - lost).abs() > bound).any()


@pytest.mark.parametrize("rows", [1, 2, 15, 64, 100, 600])
def test_a_row_does_not_depend_on_the_batch(rows, device, generator) -> None:
    """Bit for bit: prefill, chunks and decode run the same sums for a row (tile classes differ in height only)."""
    q, s, weight, scale = _fp8_inputs(640, 200, 300, generator, device)
    x, dense = (torch.randn(n, 300, generator=generator).to(torch.bfloat16).to(device) for n in (640, 200))
    whole_fp8, whole_bf16 = linear_fp8(q, s, weight, scale), linear_bf16(x, dense, out_dtype=torch.float32)
    part = slice(40, 40 + rows) if rows <= 600 else slice(0, rows)
    assert torch.equal(linear_fp8(q[part].clone(), s[part].clone(), weight, scale), whole_fp8[part])
    assert torch.equal(linear_bf16(x[part], dense, out_dtype=torch.float32), whole_bf16[part])


@pytest.mark.parametrize("tile", [(16, 128), (32, 16), (8, 512)])
def test_interpreted_bits_do_not_depend_on_the_tile(tile, device, generator) -> None:
    if not interpreted():
        assert linear_launch(op="linear_fp8", n_rows=1, n_cols=64, depth=64).block["m"] == 64
        return
    inputs = _fp8_inputs(37, 300, 260, generator, device)
    launch = linear_launch(op="linear_fp8", n_rows=37, n_cols=300, depth=260)
    grid = (ceil_div(37, tile[0]), ceil_div(300, tile[1]))
    tiled = replace(launch, grid=grid, block={**launch.block, "m": tile[0], "n": tile[1]})
    assert torch.equal(linear_fp8(*inputs), linear_fp8(*inputs, launch=tiled))


def test_the_launch_says_what_it_covers(device, generator) -> None:
    """Planted: one column tile too few leaves its columns unwritten, and the record is truncated."""
    inputs = _fp8_inputs(20, 300, 128, generator, device)
    whole = linear_launch(op="linear_fp8", n_rows=20, n_cols=300, depth=128)
    assert not whole.truncated
    short = replace(
        whole, grid=(whole.grid[0], 2), block={**whole.block, "n": 128}, covers={**whole.covers, "cols": 256}
    )
    assert short.truncated
    out = linear_fp8(*inputs, out=_poison(20, 300, device), launch=short)
    assert not out[:, :256].isnan().any()
    assert out[:, 256:].isnan().all()


@pytest.mark.parametrize("op", ["linear_fp8", "linear_bf16"])
@pytest.mark.parametrize("rows", [0, 1, 31, 64, 65, 511, 512, 4096])
@pytest.mark.parametrize("cols", [1, 384, 4096, 151936])
def test_default_launches_cover(op, rows, cols) -> None:
    assert not linear_launch(op=op, n_rows=rows, n_cols=cols, depth=2048).truncated


def test_strided_inputs_and_outputs(device, generator) -> None:
    """bf16 takes strided rows; fp8 refuses them before launch (its scales have no stride of their own)."""
    x, weight = (torch.randn(n, 100, generator=generator).to(torch.bfloat16).to(device) for n in (9, 40))
    wide = _poison(9, 60, device)
    out = linear_bf16(x[:, 10:80], weight[:, 20:90], out=wide[:, 5:45])
    assert torch.equal(out, linear_bf16(x[:, 10:80].contiguous(), weight[:, 20:90].contiguous()))
    assert wide[:, :5].isnan().all()
    assert wide[:, 45:].isnan().all()
    with pytest.raises(ShapeError, match="x"):
        linear_bf16(x.t(), weight[:, :9])
    q, s, fp8_weight, scale = _fp8_inputs(9, 40, 256, generator, device)
    with pytest.raises(ShapeError, match="q"):
        linear_fp8(torch.cat((q.float(), q.float()), 1).to(q.dtype)[:, :256], s, fp8_weight, scale)


def test_nan_stays_in_its_row_and_column(device, generator) -> None:
    x, weight = (torch.randn(n, 70, generator=generator).to(torch.bfloat16).to(device) for n in (5, 6))
    x[2, 69], weight[3, 0] = float("nan"), float("inf")
    bad = ~linear_bf16(x, weight).isfinite()
    wanted = torch.zeros(5, 6, dtype=torch.bool, device=device)
    wanted[2], wanted[:, 3] = True, True
    assert torch.equal(bad, wanted)


def test_what_they_refuse(device, generator) -> None:
    q, s, weight, scale = _fp8_inputs(4, 200, 160, generator, device)
    with pytest.raises(ShapeError, match="weight_scale"):
        linear_fp8(q, s, weight, scale.t().contiguous()[:, :1])
    with pytest.raises(ShapeError, match="linear_fp8: s:"):
        linear_fp8(q, s[:, :1], weight, scale)
    with pytest.raises(ShapeError, match="weight"):
        linear_fp8(q, s, weight[:, :128], scale)
    with pytest.raises(DtypeError, match="q"):
        linear_fp8(q.to(torch.bfloat16), s, weight, scale)
    with pytest.raises(DtypeError, match="weight_scale"):
        linear_fp8(q, s, weight, scale.to(torch.bfloat16))
    x, dense = q.to(torch.bfloat16), weight.to(torch.bfloat16)
    with pytest.raises(DtypeError, match="out"):
        linear_bf16(x, dense, out=torch.empty(4, 200, device=device))
    with pytest.raises(DtypeError, match="out"):
        linear_bf16(x, dense, out_dtype=torch.float16)
    with pytest.raises(ShapeError, match="out"):
        linear_bf16(x, dense, out=torch.empty(4, 199, dtype=torch.bfloat16, device=device))
