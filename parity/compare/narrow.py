"""Do values come from a narrower dtype than they are stored in? A cast on the way leaves their last bits zero."""

from __future__ import annotations

import torch

from parity.compare.tensorfile import StoredTensor
from parity.metrics.rounding import FORMATS

_NARROW = ("float8_e5m2", "float8_e4m3fn", "bfloat16", "float16", "float32")
_ROWS, _VALUES, _DIFFERENT = 17, 128, 64
"""What is looked at. A value of b further bits is representable by chance once in 2^b: 64 different ones are none."""


def narrowed(tensor: StoredTensor, dtype: str) -> str | None:
    """The narrowest float dtype that holds every value looked at, where it has fewer bits than `dtype`; else None.

    Looked at are up to 128 values of each of 17 rows; None where they are fewer than 64 different ones, since
    constants, counts and flags are representable in anything.
    """
    rows, width = tensor.matrix
    if tensor.known is None or not tensor.known.is_floating_point or rows * width < _DIFFERENT:
        return None
    at = sorted({n * (rows - 1) // (_ROWS - 1) for n in range(_ROWS)})
    values = torch.cat([tensor.piece(row * width, row * width + min(width, _VALUES)) for row in at]).to(torch.float64)
    values = values[torch.isfinite(values)]
    if len(values.unique()) < _DIFFERENT:
        return None
    fewer = [name for name in _NARROW if FORMATS[name][0] < FORMATS[dtype][0]]
    held = (name for name in fewer if torch.equal(values.to(getattr(torch, name)).to(torch.float64), values))
    return next(held, None)
