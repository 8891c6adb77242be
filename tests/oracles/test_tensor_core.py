"""Does the emulated matrix unit keep the bits that its documentation says, and no more?"""

from __future__ import annotations

import pytest
import torch

import parity_kernels.backend  # noqa: F401  isort: skip  decides interpreted or compiled before triton is imported
import triton
import triton.language as tl

from parity_oracles.recipes.tensor_core import sum_bf16, sum_fp8


@triton.jit
def _dot(x, w, out, T: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    rows, depth, columns = tl.arange(0, T), tl.arange(0, K), tl.arange(0, N)
    left = tl.load(x + rows[:, None] * K + depth[None, :])
    right = tl.load(w + columns[None, :] * K + depth[:, None])
    tl.store(out + rows[:, None] * N + columns[None, :], tl.dot(left, right, out_dtype=tl.float32))


def _on_the_device(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(x), len(w), device="cuda")
    _dot[(1,)](x.cuda(), w.cuda(), out, len(x), x.shape[1], len(w), num_warps=4)
    return out.cpu()


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="needs a Hopper GPU"
)
@pytest.mark.parametrize("depth", [32, 64, 128])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 60.0])
def test_a_hopper_gpu_sums_as_emulated(depth: int, scale: float):
    """Every bit in E4M3. In BF16 the alignment of products to 25 bits is left out: 92 % of the bits were seen equal."""
    random = torch.Generator().manual_seed(depth)
    x, w = (torch.randn(64, depth, generator=random) * scale for _ in range(2))
    narrow = [t.clamp(-448, 448).to(torch.float8_e4m3fn) for t in (x, w)]
    assert torch.equal(_on_the_device(*narrow), sum_fp8(narrow[0].float(), narrow[1].float(), promote=128))
    wide = [t.bfloat16() for t in (x, w)]
    same = _on_the_device(*wide) == sum_bf16(wide[0].float(), wide[1].float())
    assert same.float().mean() > 0.9


def test_a_product_below_thirteen_bits_of_the_largest_is_lost():
    x = torch.zeros(1, 32)
    w = torch.zeros(1, 32)
    x[0, :2] = torch.tensor([256.0, 2.0**-5])
    w[0, :2] = 1.0
    assert sum_fp8(x, w, promote=32).item() == 256 + 2.0**-5  # 13 bits below 2^8: still there
    x[0, 1] = 2.0**-6
    assert sum_fp8(x, w, promote=32).item() == 256
    far = torch.zeros(1, 64)
    far[0, 0], far[0, 40] = 256.0, 2.0**-6
    ones = torch.ones(1, 64)
    assert sum_fp8(far, ones, promote=64).item() == 256
    assert sum_fp8(far, ones, promote=32).item() == 256 + 2.0**-6  # moved to fp32 in between


def test_alignment_is_to_the_exponents_of_factors_and_the_sum_is_cut_once_more():
    x, w = torch.zeros(1, 32), torch.zeros(1, 32)
    x[0, :2], w[0, :2] = torch.tensor([1.5, 2.0**-6]), torch.tensor([1.5, 2.0**-7])
    # 1.5 * 1.5 leads with 2^1, its factors' exponents add to 0: 2^-13 is kept until the sum is cut, at 2^-12.
    assert sum_fp8(x, w, promote=32).item() == 2.25
    x[0, 2], w[0, 2] = 2.0**-6, 2.0**-7
    assert sum_fp8(x, w, promote=32).item() == 2.25 + 2.0**-12
    assert sum_fp8(torch.zeros(3, 64), torch.ones(2, 64), promote=64).eq(0).all()


def test_bf16_sums_are_cut_towards_zero():
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 16] = 1.0, 2.0**-24 + 2.0**-25
    w = torch.ones(1, 32)
    assert sum_bf16(x, w).item() == 1.0  # to nearest it would be 1 + 2^-23
    assert sum_bf16(-x, w).item() == -1.0


@pytest.mark.parametrize(("tokens", "depth", "width"), [(1, 128, 1), (67, 160, 33), (0, 32, 8), (5, 40, 130)])
def test_it_stays_within_its_bits_of_the_exact_sum(tokens: int, depth: int, width: int):
    random = torch.Generator().manual_seed(depth)
    x = (torch.randn(tokens, depth, generator=random) * 50).to(torch.float8_e4m3fn).float()
    w = (torch.randn(width, depth, generator=random) * 50).to(torch.float8_e4m3fn).float()
    exact = x.double() @ w.double().T
    largest = (x.double().abs()[:, None] * w.double().abs()).amax(-1)
    # Each of the (at most depth + 4) addends of a block loses less than one unit of 2^-13 of the largest addend, which
    # is no larger than the sum of magnitudes.
    magnitude = x.double().abs() @ w.double().abs().T
    bound = torch.minimum(magnitude, (depth + 4) * largest) * (depth + 4) * 2.0**-13
    assert ((sum_fp8(x, w, promote=128).double() - exact).abs() <= bound).all()
    # 2^-23 of the running sum, once an instruction.
    steps = -(-depth // 16)
    assert ((sum_bf16(x, w).double() - exact).abs() <= magnitude * steps * 2.0**-23).all()
