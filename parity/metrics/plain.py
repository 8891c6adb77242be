"""What are the moments of a block of rows, where no compiled kernel is? In torch, fp64 throughout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from parity.metrics.bits import bits_differ
from parity.metrics.moments import Moments


def plain_moments(oracle: torch.Tensor, sut: torch.Tensor, edges: Sequence[int]) -> Moments:
    """Moments [n, C] of two [n, W] of readable dtypes; about 24 bytes an element are held meanwhile."""
    oracle, sut = oracle.to("cpu").contiguous(), sut.to("cpu").contiguous()
    into = Moments.zeros(len(oracle), len(edges) - 1)
    differ = bits_differ(*_of_one_dtype(oracle, sut))
    y, x = oracle.to(torch.float64), sut.to(torch.float64)
    bad_y = bad_x = None
    # A sum of squares is finite exactly when every element is: this spares the clean case two more passes.
    if not torch.isfinite(torch.linalg.vecdot(y, y) + torch.linalg.vecdot(x, x)).all():
        bad_y, bad_x = ~torch.isfinite(y), ~torch.isfinite(x)
        y, x = (t.masked_fill(bad_y | bad_x, 0.0) for t in (y, x))
    d = x - y
    for block, (left, right) in enumerate(pairwise(edges)):
        yb, xb, db = (t[:, left:right] for t in (y, x, d))
        into.count[:, block] = into.finite[:, block] = right - left
        into.xx[:, block] = torch.linalg.vecdot(xb, xb).numpy()
        into.yy[:, block] = torch.linalg.vecdot(yb, yb).numpy()
        into.dy[:, block] = torch.linalg.vecdot(db, yb).numpy()
        into.dd[:, block] = torch.linalg.vecdot(db, db).numpy()
        into.max_abs[:, block] = torch.maximum(db.amax(1), -db.amin(1)).numpy()
        into.differ[:, block] = differ[:, left:right].sum(1).numpy()
        if bad_y is not None and bad_x is not None:
            into.finite[:, block] -= (bad_y | bad_x)[:, left:right].sum(1).numpy()
            into.nonfinite_oracle[:, block] = bad_y[:, left:right].sum(1).numpy()
            into.nonfinite_sut[:, block] = bad_x[:, left:right].sum(1).numpy()
    return into


def _of_one_dtype(oracle: torch.Tensor, sut: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides exactly, in a dtype that holds either."""
    if oracle.dtype == sut.dtype:
        return oracle, sut
    wide = torch.float64 if torch.float64 in (oracle.dtype, sut.dtype) else torch.float32
    return oracle.to(wide), sut.to(wide)
