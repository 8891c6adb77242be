"""Do the values lie on the E4M3 grid? A tensor stored in FP8 that should not be."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import E4M3_GRID
from parity.fingerprint.evidence import FITTED, UNRELATED, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

LARGEST = 448.0
"""Largest finite E4M3 (OCP 8-bit floating point specification 1.0, table 1)."""

ON_GRID = 0.98
"""Share of values that must lie on the grid. By chance 1/16 of bf16 values do: 8 significant bits against 4."""

OFF_GRID = 0.5
"""Largest share of the oracle's own values, rounded to the SUT's dtype."""

NEAR = 2.0**-7 * (1 + 2.0**-8)
"""Relative distance to a grid value that counts as on it where a scale was multiplied back: half a step of bf16, 2^-8,
for the product and as much for the scale. By chance up to a fifth of all values are that near."""

SAMPLE = 1 << 16

FIRST, LIKELY = 16, 0.9
"""Rows that are asked first, and the share on the grid below which no more are: of a hundred values on it with ON_GRID
fewer than LIKELY are by chance in 1 of 10^5 cases (binomial)."""

HEAD_ROW = "amax / 448 of each head's row"

SCALES = {"1": True, "amax / 448 of the tensor": False, "amax / 448 of each row": False, HEAD_ROW: False}
"""Scales that are tried, and whether the values then lie on the grid exactly."""


@reads_values
def detect_e4m3_grid(field: ErrorField) -> Fingerprint | None:
    """Find values that E4M3 represents, under scale 1, or a scale of amax / 448 for the tensor or each row.

    score: the share of the error explained by storing the oracle in that format (clipping included), half at least.
    """
    if field.sut.element_size() < 2 or field.range == (0.0, 0.0):
        return None
    for name, exact in SCALES.items():
        # A row of a cache is one head of one token.
        split = field.heads if name == HEAD_ROW else 1
        if name == HEAD_ROW and split < 2:
            continue
        x, y = (t.reshape(field.rows * split, -1) for t in (field.x, field.y))
        step = max(x.numel() // SAMPLE, 1)
        rows = torch.arange(0, len(x), step) if step > 1 and len(x) > 256 else torch.arange(len(x))
        # A scale of each row needs those rows alone.
        some, by_row = x[rows], "row" in name
        first = some[:: -(-len(some) // FIRST)]
        if np.count_nonzero(first.numpy()) >= FITTED * FIRST and (
            _share_on_grid(first, _scale(name, first if by_row else x), exact) < LIKELY
        ):
            continue
        if _share_on_grid(some, _scale(name, some if by_row else x), exact) < ON_GRID:
            continue
        others = y[rows].to(field.sut.dtype).float()
        there = _share_on_grid(others, _scale(name, y[rows] if by_row else y), exact)
        if there > OFF_GRID:
            continue
        scale = _scale(name, x)
        on = _share_on_grid(some, scale[rows] if by_row else scale, exact)
        clipped = int((x.abs() >= LARGEST * (1 - NEAR) * scale).sum()) if name == "1" else 0
        score = min(max(UNRELATED, share_after(field, stored_as_e4m3(name, y).view_as(field.x))), 1.0)
        numbers = {"scale": name, "on_grid": on, "oracle_on_grid": there, "at_448": clipped}
        sentence = (
            f"{percent(on)} of the values lie on the E4M3 grid with scale {name}, {percent(there)} of the oracle's do"
            + (f"; {clipped} are clipped at 448." if clipped else ".")
        )
        return Fingerprint(E4M3_GRID, score, numbers, sentence, Slice())
    return None


def stored_as_e4m3(name: str, values: torch.Tensor) -> torch.Tensor:
    """[N, W] fp32 rounded to E4M3 and back, with the scale called `name`: `1`, or amax / 448 of the tensor or row."""
    scale = _scale(name, values)
    return (values / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float() * scale


def _scale(name: str, values: torch.Tensor) -> torch.Tensor:
    if name == "1":
        return torch.ones(1)
    low, high = torch.aminmax(values, dim=1, keepdim=True) if "row" in name else torch.aminmax(values.reshape(1, -1))
    largest = torch.maximum(high, -low).reshape(-1, 1) if "row" in name else torch.maximum(high, -low).reshape(1)
    return (largest / LARGEST).clamp(min=1e-30)


def _share_on_grid(values: torch.Tensor, scale: torch.Tensor, exact: bool) -> float:
    """Share of the nonzero values that are multiples `scale` of an E4M3 value."""
    scaled = (values / scale).clamp(-LARGEST, LARGEST) if not exact else values
    grid = scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()
    on = (scaled == grid) if exact else (scaled - grid).abs() <= NEAR * scaled.abs()
    there = values != 0
    return float((on & there).sum() / there.sum().clamp(min=1))
