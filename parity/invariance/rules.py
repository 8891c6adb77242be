"""What is a breach of a rule that one run must obey, and how far may rounding go?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from parity.align import Aligned
from parity.records import Site, Slice

_UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def unit(dtype: torch.dtype) -> float:
    """Unit roundoff: the largest relative error of one rounding to `dtype` (E4M3, four significant bits, 2^-4)."""
    return _UNIT.get(dtype, 2.0**-4)


def unit_held(tensor: torch.Tensor) -> float:
    """Unit roundoff of what `tensor` was rounded to: of a 16-bit dtype that holds every element, else of its own.

    An engine may round to BF16 and go on in FP32. Values that were not rounded lie on BF16's grid one in 2^16.
    """
    if tensor.dtype not in (torch.float32, torch.float64) or not tensor.numel():
        return unit(tensor.dtype)
    held = [dtype for dtype in (torch.bfloat16, torch.float16) if bool((tensor == tensor.to(dtype)).all())]
    return max(unit(dtype) for dtype in (tensor.dtype, *held))


def unproven(over: torch.Tensor) -> torch.Tensor:
    """Distances over their bound, with NaN as infinitely far: a rule that could not be evaluated does not hold."""
    over = over.double()
    return torch.where(over.isnan(), torch.inf, over)


@dataclass(frozen=True)
class Breach:
    """One rule that does not hold at one site. over: worst distance over its bound; rows: how many break it."""

    rule: str
    site: Site
    over: float
    rows: int
    sentence: str

    @staticmethod
    def of(one: Aligned, over: torch.Tensor, rule: str, *, worst: float | None = None) -> Breach | None:
        """The breach of a rule about rows; over: [T], each row's distance over its bound. None when all hold."""
        over = unproven(over)
        at = torch.nonzero(over > 1).flatten().numpy()
        if not len(at):
            return None
        positions = np.asarray(one.position)[at]
        where = Slice(rows=tuple(positions.tolist()), positions=(int(positions.min()), int(positions.max()) + 1))
        site = Site(() if one.layer is None else (one.layer,), one.stage, where)
        value = "" if worst is None else f", {worst:.6g} at worst"
        sentence = f"{len(at)} of {len(over)} rows, the worst {float(over.max()):.3g} times its bound{value}"
        return Breach(rule, site, float(over.max()), len(at), sentence)
