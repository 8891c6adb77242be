"""Was the input of a projection rounded to a narrower format than the recipe's on its way in? E5M2, or E4M3."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from parity.fingerprint.causes import E4M3_GRID, NARROW_GRID
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.weight import projections
from parity.metrics import COLUMN_BLOCK
from parity.records import Slice

SAMPLE = 64
"""Rows of each projection that stand for all of them."""

FORMATS = {
    "E5M2": ((torch.float8_e5m2,), 57344.0, NARROW_GRID),
    "E4M3 and then to E5M2": ((torch.float8_e4m3fn, torch.float8_e5m2), 448.0, NARROW_GRID),
    "E4M3": ((torch.float8_e4m3fn,), 448.0, E4M3_GRID),
}
"""Casts in order, largest number and cause (Micikevicius et al. 2022, arXiv 2209.05433). Half of E4M3's numbers lie
midway between two of E5M2's: rounded twice, a value comes out otherwise than rounded once."""


@reads_values
def detect_input_grid(field: ErrorField) -> Fingerprint | None:
    """Find a projection whose values are the oracle's weight on its own input, rounded to E5M2 or E4M3 with a scale for
    each 128 inputs of a row, for each row or for the tensor.

    The largest number of a scale's inputs becomes the format's largest. Needs the weight, given or solved. score: the
    share of the error explained, by sample.
    """
    parts = [one.fewer(SAMPLE) for one in projections(field)]
    rows = torch.cat([one.rows for one in parts]) if parts else torch.zeros(0, dtype=torch.long)
    if not len(rows):
        return None
    x, error = field.x[rows], float(field.d[rows].square().sum())
    largest = max(float(one.input.abs().max()) for one in projections(field))
    best: tuple[float, str, str, str] | None = None
    for name, (casts, top, cause) in FORMATS.items():
        for scaled, rounded in _roundings(casts, top, largest):
            made = torch.cat([rounded(one.input) @ one.weight.T for one in parts])
            left = float((x - made).square().sum())
            share = 1.0 - left / error if error > 0 and left <= (1 - LEAST_SHARE) * float(x.square().sum()) else 0.0
            if best is None or share > best[0]:
                best = share, name, scaled, cause
    if best is None or not best[0] > LEAST_SHARE:
        return None
    share, name, scaled, cause = best
    sentence = (
        f"The SUT's {field.stage} is what the oracle's weight makes of an input rounded to {name}, one scale for "
        f"{scaled}: {percent(share)} of the error."
    )
    return Fingerprint(cause, share, {"input": name, "scale": scaled}, sentence, Slice())


def _roundings(
    casts: tuple[torch.dtype, ...], top: float, largest: float
) -> Iterator[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """(what has one scale, the rounding of [n, K] rows)."""

    def of(x: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
        scale = amax.clamp(min=1e-30) / top
        x = (x / scale).clamp(-top, top)
        for dtype in casts:
            x = x.to(dtype).float()
        return x * scale

    def by_block(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([of(part, part.abs().amax(1, keepdim=True)) for part in x.split(COLUMN_BLOCK, 1)], 1)

    yield f"each {COLUMN_BLOCK} of a row", by_block
    yield "each row", lambda x: of(x, x.abs().amax(1, keepdim=True))
    yield "the tensor", lambda x: of(x, torch.tensor(largest))
