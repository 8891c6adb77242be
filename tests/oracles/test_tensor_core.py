"""Does the emulated matrix unit keep the bits that its documentation says, and no more?"""

from __future__ import annotations

import pytest
import torch

from parity_oracles.recipes.tensor_core import sum_bf16, sum_fp8


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
