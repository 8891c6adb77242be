"""Which faults of whole rows are drawn at random? Lost, stale, scaled, permuted, shifted: tokens, tiles, experts."""

from __future__ import annotations

import math

import numpy as np
import torch
from random_faults import EXPERT, ROWS, Drawn, World, edited, experts_of, older, row_numbers, sut

from parity.fingerprint import causes as C


def tiles_lost(w: World) -> Drawn | None:
    """Every expert's rows past some tiles are zero, NaN, or left over."""
    site = w.site(w.one(*EXPERT))
    height = w.one(16, 32, 64, 128)
    more = row_numbers(site, w.one(height, None))
    number = more["row_in_expert"]
    most = int(number.max()) // height
    if most < 1:
        return None
    cap = height * int(w.rng.integers(1, most + 1))
    lost = torch.from_numpy(number >= cap)
    x, kind = sut(site), w.one("zero", "nan", "stale", "older layer")
    content = {"zero": 0.0, "nan": math.nan}.get(kind)
    if content is None:
        other = w.randn(x) if kind == "stale" else older(w, site)
        x[lost] = other[lost]
    else:
        x[lost] = content
    cause = C.NEVER_WRITTEN if content is not None else C.STALE
    return Drawn(edited(site, x, **more), (cause,), f"{site.stage} cap {cap} height {height} {kind}")


def rows_lost(w: World) -> Drawn | None:
    """Some token rows are zero, or hold something else."""
    site = w.site(w.one(*ROWS))
    x = sut(site)
    n = len(x)
    how = w.one("tail", "every", "some", "span")
    if how == "tail":
        rows = list(range(int(w.rng.integers(n // 2, n - 1)), n))
    elif how == "every":
        rows = list(range(int(w.rng.integers(0, 5)), n, int(w.rng.integers(2, 9))))
    elif how == "some":
        rows = w.some(n, 1, n // 4)
    else:
        first = int(w.rng.integers(0, n - 40))
        rows = list(range(first, first + int(w.rng.integers(1, 40))))
    zero = w.one(True, False)
    x[rows] = 0.0 if zero else w.randn(x)[rows]
    cause = C.ROWS_UNWRITTEN if zero else C.ROWS_STALE
    return Drawn(edited(site, x), (cause,), f"{site.stage} {how} {len(rows)} rows zero={zero}")


def expert_rows_lost(w: World) -> Drawn | None:
    """A few rows of one expert are zero or stale, not at a tile's edge."""
    site = w.site(w.one(*EXPERT, "moe.act"))
    more = row_numbers(site, w.one(64, None))
    e = w.one(*np.unique(experts_of(site)).tolist())
    at = np.argwhere(experts_of(site) == e)
    if len(at) < 12:
        return None
    some = at[w.some(len(at) - 4, 2, 8)]
    x, zero = sut(site), w.one(True, False)
    x[some[:, 0], some[:, 1]] = 0.0 if zero else w.randn(x)[some[:, 0], some[:, 1]]
    cause = C.ROWS_UNWRITTEN if zero else C.ROWS_STALE
    return Drawn(edited(site, x, **more), (cause,), f"{site.stage} expert {e} {len(some)} rows zero={zero}")


def tile_scaled(w: World) -> Drawn | None:
    """A tile of one expert, or of tokens, times a factor."""
    stage = w.one(*EXPERT, "attn.out", "attn.q", "moe.experts")
    site = w.site(stage)
    x, height = sut(site), w.one(16, 32, 64, 128)
    factor = w.factor(0.05)
    width = x.shape[-1] if x.ndim == 2 or stage in EXPERT else x.shape[1] * x.shape[2]
    columns = w.one((0, width), (0, width // 2), (width // 4, width // 4 + 64))
    columns = (columns[0] // 8 * 8, min(columns[1] // 8 * 8, width)) if columns[1] != width else columns
    if stage in EXPERT:
        more = row_numbers(site, w.one(height, None))
        number, experts = more["row_in_expert"], experts_of(site)
        early = (site.sut.launch == site.sut.launch[0])[:, None]  # type: ignore[union-attr]
        full = [e for e in np.unique(experts) if ((experts == e) & early).sum() >= 1.5 * height]
        if not full:
            return None
        e = w.one(*full)
        tiles = int(((experts == e) & early).sum()) // height
        first = height * int(w.rng.integers(tiles))
        at = torch.from_numpy((experts == e) & early & (number >= first) & (number < first + height))
        x[at, columns[0] : columns[1]] *= factor
        return Drawn(edited(site, x, **more), (C.TILE_AMPLIFIED,), f"{stage} x{factor:.3g} h{height} {columns}/{width}")
    first = height * int(w.rng.integers(len(x) // height))
    flat = x.flatten(1)
    flat[first : first + height, columns[0] : columns[1]] *= factor
    return Drawn(edited(site, flat.view(x.shape)), (C.TILE_AMPLIFIED,), f"{stage} x{factor:.3g} h{height} {columns}")


def rows_permuted(w: World) -> Drawn | None:
    """Rows in another order: all, one range of them, a tile of an expert, a pair or a few of one expert."""
    how = w.one("all", "range", "few of an expert", "tile of an expert", "two tokens")
    site = w.site(w.one(*ROWS) if how in ("all", "range", "two tokens") else w.one(*EXPERT))
    x = sut(site)
    if how in ("all", "range", "two tokens"):
        size = len(x) if how == "all" else int(w.rng.integers(8, len(x) // 2)) if how == "range" else 2
        first = int(w.rng.integers(0, len(x) - size + 1))
        at = np.arange(first, first + size) if how != "two tokens" else w.rng.choice(len(x), 2, replace=False)
        order = w.rng.permutation(size) if size > 2 else np.array([1, 0])
        x[torch.from_numpy(at)] = x[torch.from_numpy(at[order])]
        return Drawn(edited(site, x), (C.ROWS_PERMUTED,), f"{site.stage} {how} {size}")
    more = row_numbers(site, w.one(64, None))
    e = w.one(*np.unique(experts_of(site)).tolist())
    at = np.argwhere(experts_of(site) == e)
    if len(at) < 20:
        return None
    at = at[w.some(len(at), 2, 8)] if how == "few of an expert" else at[: min(64, len(at))]
    count = len(at)
    order = np.roll(np.arange(count), int(w.rng.integers(1, count))) if count < 9 else w.rng.permutation(count)
    x[at[:, 0], at[:, 1]] = x[at[order][:, 0], at[order][:, 1]]
    return Drawn(edited(site, x, **more), (C.ROWS_PERMUTED,), f"{site.stage} {how} {len(at)}")


def rows_shifted(w: World) -> Drawn | None:
    """Each row is a neighbour's, of all tokens or from one position on."""
    site = w.site(w.one(*ROWS))
    x, by = sut(site), w.one(1, -1, 2, -3)
    start = w.one(0, int(w.rng.integers(20, len(x) - 60)))
    part = x[start:].clone()
    moved = torch.cat([part[:by], part[:-by]]) if by > 0 else torch.cat([part[-by:], part[by:]])
    x[start:] = moved
    return Drawn(edited(site, x), (C.ROWS_SHIFTED,), f"{site.stage} by {by} from {start}")


def first_row_right(w: World) -> Drawn | None:
    site = w.site(w.one("attn.context", "attn.q", "attn.out", "attn.v"))
    x = sut(site)
    y = w.randn(x)
    if w.one(True, False):
        flat, stride = x.flatten(), math.prod(x.shape[1:]) + 8 * int(w.rng.integers(1, 20))
        at = torch.arange(len(x))[:, None] * stride + torch.arange(math.prod(x.shape[1:]))
        y = torch.where(at < len(flat), flat[at.clamp(max=len(flat) - 1)], 0.0).view(x.shape)
    return Drawn(edited(site, torch.cat([x[:1], y[1:]])), (C.FIRST_ROW_RIGHT,), site.stage)
