"""How does a norm kernel pass its rows through unchanged? By arguments under which every step of it is exact."""

from __future__ import annotations

import torch

EPS = 2.0**60
"""rsqrt(mean + 2^60) is 2^-30 in fp32 for any mean below 2^35: half a unit in the last place of 2^60."""


def unit_gain(weight: torch.Tensor) -> torch.Tensor:
    """The gain that undoes `EPS`: 2^30, exact in bf16; x * 2^-30 * 2^30 is x, bit for bit."""
    return torch.full_like(weight, 2.0**30)
