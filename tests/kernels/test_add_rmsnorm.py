"""Is the residual sum rounded once and its norm right, in Triton, and the CUDA C++ form the same?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from dataclasses import replace

import pytest
import torch

from parity.errors import DtypeError, RunnerError, ShapeError, ValueRangeError
from parity_kernels.add_rmsnorm import cuda
from parity_kernels.add_rmsnorm.launch import add_rmsnorm_launch
from parity_kernels.add_rmsnorm.op import add_rmsnorm
from parity_kernels.add_rmsnorm.reference import add_rmsnorm_bound, add_rmsnorm_reference
from parity_kernels.backend import default_device
from parity_kernels.launch import ceil_div

# Widths around powers of two and around a warp; rows around interpreted tiles (powers of two).
SIZES = [(0, 64), (1, 1), (1, 384), (2, 31), (3, 33), (7, 127), (8, 128), (9, 129), (5, 2048), (3, 4097), (1030, 40)]
EPS = 1e-6


def _inputs(n_rows: int, n_cols: int, draw: torch.Generator, device: torch.device) -> tuple[torch.Tensor, ...]:
    size = torch.logspace(-4, 3, max(n_rows, 1))[:n_rows, None]  # rows of different sizes: a neighbour's scale shows
    x, residual = ((torch.randn(n_rows, n_cols, generator=draw) * size).to(torch.bfloat16) for _ in range(2))
    weight = (1 + torch.randn(n_cols, generator=draw) / 2).to(torch.bfloat16)
    return x.to(device), residual.to(device), weight.to(device)


def _poisoned(like: torch.Tensor) -> torch.Tensor:
    return torch.full_like(like, float("nan"))


def _forms() -> list:
    here = cuda.is_usable() and default_device().type == "cuda"
    usable = pytest.mark.skipif(not here, reason="CUDA form: needs nvcc and a CUDA device")
    return [pytest.param(add_rmsnorm, id="triton"), pytest.param(cuda.add_rmsnorm_cuda, id="cuda", marks=usable)]


@pytest.mark.parametrize("op", _forms())
@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize(("n_rows", "n_cols"), SIZES)
def test_norm_of_the_rounded_sum(n_rows, n_cols, add, op, device, generator) -> None:
    """The sum is one fp32 addition rounded once: bit-equal to torch's. The norm: add_rmsnorm_bound (derived there)."""
    x, residual, weight = _inputs(n_rows, n_cols, generator, device)
    other = residual if add else None
    normed, summed = op(x, other, weight, eps=EPS, out=_poisoned(x), out_sum=_poisoned(x) if add else None)
    wanted, wanted_sum = add_rmsnorm_reference(x, other, weight, eps=EPS)
    fp32_sum = (x.float() + residual.float()).to(torch.bfloat16) if add else x
    assert torch.equal(summed, fp32_sum)
    if not torch.equal(wanted_sum, fp32_sum):  # fp64 and fp32 sums can round apart: bound against the sum that was used
        wanted, _ = add_rmsnorm_reference(fp32_sum, None, weight, eps=EPS)
    assert ((normed.double() - wanted).abs() <= add_rmsnorm_bound(wanted)).all()
    if not add:
        assert summed is x


@pytest.mark.parametrize("op", _forms())
def test_defects_exceed_the_bound(op, device, generator) -> None:
    """Planted: HF's rounding before the weight, a norm of the unrounded sum, a wrong eps, a neighbour's row scale."""
    x, residual, weight = _inputs(16, 384, generator, device)
    normed, summed = op(x, residual, weight, eps=EPS)
    normed = normed.double()

    def exceeds(reference: torch.Tensor) -> bool:
        return bool(((normed - reference).abs() > add_rmsnorm_bound(reference)).any())

    assert not exceeds(add_rmsnorm_reference(x, residual, weight, eps=EPS)[0])
    wide = summed.double()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    assert exceeds((wide * scale).to(torch.bfloat16).double() * weight.double())
    unrounded = x.double() + residual.double()
    assert exceeds(unrounded * torch.rsqrt(unrounded.square().mean(-1, keepdim=True) + EPS) * weight.double())
    assert exceeds(add_rmsnorm_reference(x, residual, weight, eps=1e-5)[0])
    assert exceeds(wide * scale.roll(1, 0) * weight.double())


@pytest.mark.parametrize("tile", [1, 2, 16])
def test_rows_do_not_depend_on_the_tile(tile, device, generator) -> None:
    """Interpreted, bit for bit. Compiled, the tile is fixed (one row), so there is nothing to compare."""
    x, residual, weight = _inputs(9, 384, generator, device)
    launch = add_rmsnorm_launch(n_rows=9, n_cols=384)
    if launch.block["m"] == 1:
        assert add_rmsnorm_launch(n_rows=1, n_cols=384).block == launch.block
        return
    tiled = replace(launch, grid=(ceil_div(9, tile),), block={**launch.block, "m": tile})
    for one, other in zip(
        add_rmsnorm(x, residual, weight, eps=EPS), add_rmsnorm(x, residual, weight, eps=EPS, launch=tiled), strict=True
    ):
        assert torch.equal(one, other)


def test_the_launch_says_what_it_covers(device, generator) -> None:
    """Planted: one program too few leaves its rows unwritten, and the record is truncated."""
    x, residual, weight = _inputs(9, 64, generator, device)
    whole = add_rmsnorm_launch(n_rows=9, n_cols=64)
    assert not whole.truncated
    short = replace(whole, grid=(2,), block={**whole.block, "m": 4}, covers={"rows": 8})
    assert short.truncated
    out, _ = add_rmsnorm(x, residual, weight, eps=EPS, out=_poisoned(x), launch=short)
    assert not out[:8].isnan().any()
    assert out[8].isnan().all()


@pytest.mark.parametrize("op", _forms())
def test_buffers_may_be_strided_and_in_place(op, device, generator) -> None:
    x, residual, weight = _inputs(6, 100, generator, device)
    wanted, wanted_sum = op(x, residual, weight, eps=EPS)
    wide_x, wide_r = (torch.nn.functional.pad(t, (3, 5)) for t in (x, residual))
    normed, summed = op(
        wide_x[:, 3:103], wide_r[:, 3:103], weight, eps=EPS, out=wide_x[:, 3:103], out_sum=wide_r[:, 3:103]
    )
    assert torch.equal(normed, wanted)
    assert torch.equal(summed, wanted_sum)
    assert (wide_x[:, :3] == 0).all()
    assert (wide_r[:, 103:] == 0).all()


@pytest.mark.parametrize("op", _forms())
def test_nan_stays_in_its_row(op, device, generator) -> None:
    x, residual, weight = _inputs(5, 70, generator, device)
    x[2, 3] = float("nan")
    normed, summed = op(x, residual, weight, eps=EPS)
    assert normed.isnan().any(dim=1).tolist() == [False, False, True, False, False]
    assert normed[2].isnan().all()
    assert summed.isnan().sum() == 1


@pytest.mark.parametrize("op", _forms())
def test_what_it_refuses(op, device, generator) -> None:
    x, residual, weight = _inputs(4, 16, generator, device)
    with pytest.raises(DtypeError, match="x"):
        op(x.float(), residual, weight, eps=EPS)
    with pytest.raises(ShapeError, match="residual"):
        op(x, residual[:3], weight, eps=EPS)
    with pytest.raises(ShapeError, match="weight"):
        op(x, residual, weight[:8], eps=EPS)
    with pytest.raises(ShapeError, match="x"):
        op(torch.cat((x, x), dim=1)[:, ::2], residual, weight, eps=EPS)
    with pytest.raises(ShapeError, match="out_sum"):
        op(x, None, weight, eps=EPS, out_sum=residual)
    with pytest.raises(ValueRangeError, match="eps"):
        op(x, residual, weight, eps=0.0)


@pytest.mark.skipif(cuda.find_nvcc() is None, reason="nvcc is not installed: the CUDA source is not compiled here")
def test_the_cuda_source_compiles_for_sm_90(tmp_path) -> None:
    cubin = cuda.compile_cubin(tmp_path / "add_rmsnorm.cubin", architecture="sm_90")
    assert cubin.stat().st_size > 1000
    text = cuda.disassembled(cubin)
    if text is not None:  # cuobjdump is a separate package
        assert "SHFL" in text
        assert "EXIT" in text


@pytest.mark.skipif(cuda.is_usable(), reason="the CUDA form can run here")
def test_the_cuda_form_says_what_it_lacks(generator) -> None:
    x, residual, weight = _inputs(2, 16, generator, torch.device("cpu"))
    with pytest.raises(RunnerError, match="CUDA"):
        cuda.add_rmsnorm_cuda(x, residual, weight, eps=EPS)
