"""Is a broken promise of equal bits a fault? Only where both arms lie further apart than rounding can take them."""

from __future__ import annotations

import math

import torch

from parity.invariance import Invariance
from parity.invariance.judging import rounding_bound
from parity.runner import RunnerInfo

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def beyond_rounding(one: Invariance, info: RunnerInfo) -> bool:
    """Whether the first stage that differs lies further off than two correct computations of one input may.

    Up to that stage both arms have the same bits, so it had the same inputs: what bounds two orders of summing and
    rounding them (`rounding_bound`) bounds the difference. A check that was judged by a bound or a floor of its own,
    or that counts launches, has been through that already.
    """
    if one.site is None or not one.basis.startswith("promised bits"):
        return one.site is not None
    far = one.numbers.get("rel_l2")
    if not isinstance(far, (int, float)) or not math.isfinite(far):
        return True
    dtype = DTYPES.get(info.recipe.residual, torch.bfloat16)
    return far > rounding_bound(info)(one.site.stage, dtype)
