"""Do the rows of overloaded experts stop being computed at a tile's edge?

An undersized launch grid of a grouped GEMM covers a fixed number of tiles of every expert. Rows past that cap keep what
the buffer held: zero, a poison value, or another request's rows. The field then has one cap for all experts of a
launch: below it every row is right, from it on none is, experts that do not reach it are untouched, and the cap is a
multiple of the tile height.
"""

from __future__ import annotations

from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.causes import NEVER_WRITTEN, STALE
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.metrics import Moments, cosine, norm_ratio, pair_moments, rel_l2
from parity.records import Slice

TILE_HEIGHTS = (256, 128, 64, 32, 16, 8)
"""Tile heights of grouped GEMMs that are looked for when none is told; tensor cores want at least 8 rows."""

WRONG_ERROR, WRONG_COSINE = 0.5, 0.9
"""A row that is not the oracle's at all: relative error over 0.5 *and* another direction. Noise of FP8 leaves rel_l2
below 0.1, a scale fault leaves the direction."""

LEAST_AGREEMENT = 0.9


def detect_tile_edge(field: ErrorField) -> Fingerprint | None:
    """Find a cap past which expert rows are not the SUT's own work.

    Reads expert rows whose numbers inside their expert are known; rows of number -1 are left out.
    Returns None when rows are right, wrong throughout an expert, wrong without a common edge, or the edge is no
    multiple of the tile height (of 8, when it is not told). score: the share of the error's energy past the cap, half
    of it where the rows hold other values: that they are not y is explained, what they are is not.
    """
    experts, number, tile_m, launches = field.row_expert, field.row_number, field.tile_m, field.row_launch
    if field.ids or field.silent or experts is None or number is None:
        return None
    moments = pair_moments(
        oracle=field.oracle.reshape(field.rows, field.width), sut=field.sut.reshape(field.rows, field.width)
    ).total(axis=1)
    kind = _row_kinds(moments, field.sut.reshape(field.rows, field.width))
    rows = field.rows
    # Where the oracle itself is not finite (its input was not), a row says nothing of this launch.
    readable = (moments.nonfinite_oracle == 0) & ((moments.yy > 0) | (moments.nonfinite_sut > 0))
    known = (number >= 0) & readable
    wrong = known & (kind != "right")
    if not wrong.any():
        return None
    caps: dict[int, int] = {}
    past = np.zeros(rows, bool)
    for one in np.unique(launches[wrong]).tolist():
        inside = known & (launches == one)
        cap = _common_cap(number[inside], wrong[inside], experts[inside], tile_m)
        if cap is not None:
            caps[one] = cap
            past |= inside & (number >= cap)
    hit = wrong & past
    if not hit.any():
        return None
    agreement = float(min(hit.sum() / past.sum(), hit.sum() / wrong.sum()))
    step = gcd(*caps.values())
    heights = [height for height in TILE_HEIGHTS if step % height == 0] if tile_m is None else [tile_m]
    if agreement < LEAST_AGREEMENT or not heights or step % heights[0]:
        return None
    lost = field.sums.dd.sum(1)
    stale = hit & (kind == "stale")
    score = float((lost[hit].sum() - 0.5 * lost[stale].sum()) / lost.sum())
    return _describe(caps, heights, tile_m, agreement, score, hit, kind, number, experts, moments)


def _row_kinds(moments: Moments, sut: torch.Tensor) -> NDArray[np.str_]:
    """`right`, `zero`, `constant` (one value throughout, NaN included) or `stale` for each row."""
    error, direction = rel_l2(moments), cosine(moments)
    with np.errstate(invalid="ignore"):
        off = (error > WRONG_ERROR) & (direction < WRONG_COSINE)
    kind = np.where(off | (moments.nonfinite_sut > 0), "stale", "right").astype("<U8")
    candidates = np.flatnonzero(kind == "stale")
    values = sut[torch.from_numpy(candidates).to(sut.device)].float().nan_to_num(nan=1e38).cpu()
    flat = (values.amax(1) == values.amin(1)).numpy() if values.numel() else np.zeros(len(candidates), bool)
    zero = flat & (moments.xx[candidates] == 0) & (moments.nonfinite_sut[candidates] == 0)
    kind[candidates[flat]] = "constant"
    kind[candidates[zero]] = "zero"
    return kind


def _common_cap(
    number: NDArray[np.int64], wrong: NDArray[np.bool_], experts: NDArray[np.int64], tile_m: int | None
) -> int | None:
    """The cap that agrees best with which rows are wrong; None when the affected experts have no right row below it."""
    if tile_m is not None:
        candidates = np.arange(tile_m, int(number.max()) + 1, tile_m)
    else:
        # Rows need not all have been captured, so an edge lies anywhere after the last right row below the first wrong.
        first_wrong = [int(number[wrong & (experts == e)].min()) for e in np.unique(experts[wrong])]
        candidates = np.array(sorted({c - c % h for c in first_wrong for h in (1, *TILE_HEIGHTS) if c - c % h > 0}))
    best: tuple[float, int, int] | None = None
    for cap in candidates.tolist():
        past = number >= cap
        if not past.any():
            continue
        hit = (wrong & past).sum()
        agreement = float(min(hit / past.sum(), hit / max(wrong.sum(), 1)))
        aligned = max((h for h in TILE_HEIGHTS if cap % h == 0), default=1)
        if best is None or (agreement, aligned) > best[:2]:
            best = (agreement, aligned, cap)
    if best is None or best[0] < LEAST_AGREEMENT:
        return None
    affected = np.isin(experts, np.unique(experts[wrong]))
    below = affected & (number < best[2])
    return best[2] if (below & ~wrong).any() else None


def _describe(
    caps: dict[int, int],
    heights: list[int],
    tile_m: int | None,
    agreement: float,
    score: float,
    hit: NDArray[np.bool_],
    kind: NDArray[np.str_],
    number: NDArray[np.int64],
    experts: NDArray[np.int64],
    moments: Moments,
) -> Fingerprint:
    counts = {name: int((kind[hit] == name).sum()) for name in ("zero", "constant", "stale")}
    unwritten = counts["zero"] + counts["constant"] >= counts["stale"]
    found, lost = np.unique(experts[hit], return_counts=True)
    cap, rows = min(caps.values()), sorted(set(number[hit].tolist()))
    ratio = norm_ratio(moments[hit])
    ratio = ratio[np.isfinite(ratio)]
    numbers = {
        "cap": cap,
        "agreement": agreement,
        "caps_by_launch": {str(k): v for k, v in caps.items()},
        "tile_m": tile_m,
        "compatible_tile_m": heights,
        "tiles_covered": cap // heights[0] if tile_m else {str(h): cap // h for h in heights},
        "first_lost_row": rows[0],
        "lost_rows": int(hit.sum()),
        "lost_rows_by_expert": {str(e): int(n) for e, n in zip(found, lost, strict=True)},
        "lost_share": float(hit.mean()),
        "row_kinds": counts,
        "norm_ratio_of_lost": float(np.median(ratio)) if len(ratio) else None,
    }
    names = ", ".join(map(str, found.tolist()))
    which = f"expert {names}" if len(found) == 1 else f"experts {names}"
    state = {"zero": "zero", "constant": "one constant value", "stale": "values that belong elsewhere"}
    holds = state[max(counts, key=lambda name: counts[name])]
    listed = ", ".join(map(str, heights))
    edge = f"{cap // tile_m} tiles of {tile_m}" if tile_m else f"a multiple of tile heights {listed}"
    sentence = (
        f"Rows {cap} and up of {which} {'were never written' if unwritten else 'hold stale memory'} ({holds}): "
        f"{numbers['lost_rows']} rows, while the rows before are right. {cap} is {edge}: the launch covers no more."
    )
    where = Slice(experts=tuple(found.tolist()), rows=tuple(rows))
    return Fingerprint(NEVER_WRITTEN if unwritten else STALE, score, numbers, sentence, where)
