"""Do fp32 values lie on the grid of a narrower dtype? A cast that the recipe does not have."""

from __future__ import annotations

import torch

from parity.fingerprint.causes import NARROW_GRID
from parity.fingerprint.evidence import UNRELATED, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

NARROWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}

ON_GRID, OFF_GRID = 0.98, 0.5
"""Least share of the SUT's values on the grid, most of the oracle's: by chance 2^-16 of fp32 values are bfloat16's, and
2^-13 of those in its range float16's."""

SAMPLE = 1 << 16
"""Values that are asked, evenly spread."""


@reads_values
def detect_narrow_grid(field: ErrorField) -> Fingerprint | None:
    """Find an fp32 tensor whose values all are bfloat16's, or float16's, while the oracle's are not.

    score: the share of the error explained by rounding the oracle to that dtype, half at least.
    """
    if field.sut.dtype is not torch.float32 or field.range == (0.0, 0.0):
        return None
    x, y = (t.flatten()[:: max(t.numel() // SAMPLE, 1)] for t in (field.x, field.y))
    for name, dtype in NARROWER.items():
        on, there = _share(x, dtype), _share(y, dtype)
        if on < ON_GRID or there > OFF_GRID:
            continue
        score = min(max(UNRELATED, share_after(field, field.y.to(dtype).float())), 1.0)
        numbers = {"dtype": name, "on_grid": on, "oracle_on_grid": there}
        sentence = (
            f"{percent(on)} of the values are {name} numbers in an fp32 tensor, {percent(there)} of the oracle's are: "
            f"{percent(score)} of the error."
        )
        return Fingerprint(NARROW_GRID, score, numbers, sentence, Slice())
    return None


def _share(values: torch.Tensor, dtype: torch.dtype) -> float:
    """Share of the nonzero values that `dtype` represents."""
    there = values != 0
    return float(((values.to(dtype).float() == values) & there).sum() / there.sum().clamp(min=1))
