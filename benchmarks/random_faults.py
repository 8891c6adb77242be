"""Which faults are drawn at random to score the detectors? Each by its own formula on a healthy run of the recipe.

Every fault draws its layer, stage, slice and strength; none shares a constant with a detector. What a stage would put
out is computed from the run's own inputs, so that its rounding noise is the recipe's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parity.fingerprint import causes as C
from parity.ladder.replay import Replay, ReplayedSite

Tensor = torch.Tensor
EXPERT = ("moe.gate", "moe.up", "moe.down")
ROWS = ("attn.q", "attn.k", "attn.v", "attn.out", "attn.norm", "mlp.norm", "attn.context")
LINEAR = ("attn.q", "attn.k", "attn.v", "attn.out")
HEADS = ("attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.context")


class World:
    """A healthy run, its replay, and the dice. `site(stage)` draws a layer and is what a fault edits."""

    def __init__(self, replay: Replay, recipe: str) -> None:
        self.replay, self.recipe = replay, recipe
        self.hyper = dict(replay.trace.run.hyper)
        self.layers = replay.trace.run.layers
        self.rng = np.random.default_rng(0)

    def site(self, stage: str) -> ReplayedSite:
        layer = None if stage in ("logits", "final_norm", "embed.out") else int(self.rng.integers(self.layers))
        return self.replay.emulate(self.replay.site(layer, stage), self.recipe)

    def one(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def some(self, count: int, least: int, most: int) -> list[int]:
        """Between `least` and `most` different numbers below `count`."""
        size = int(self.rng.integers(least, min(most, count) + 1))
        return sorted(self.rng.choice(count, size, replace=False).tolist())

    def factor(self, least: float = 0.02, most: float = 4.0) -> float:
        """1 +- excess, the excess log-uniform; below 1 it divides."""
        excess = float(np.exp(self.rng.uniform(np.log(least), np.log(most))))
        return self.one(1 + excess, 1 / (1 + excess))

    def randn(self, like: Tensor) -> Tensor:
        size = like.square().mean().sqrt()
        return size * torch.from_numpy(self.rng.standard_normal(tuple(like.shape))).float()


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A site with its edited tensor. accepted: causes that name it rightly, the one wanted first."""

    site: ReplayedSite
    accepted: tuple[str, ...]
    about: str


Draw = Callable[[World], Drawn | None]


def edited(site: ReplayedSite, value: Tensor, **more: Any) -> ReplayedSite:
    """The site with another SUT tensor, in the SUT's dtype."""
    assert site.sut is not None
    return dataclasses.replace(site, sut=dataclasses.replace(site.sut, tensor=value.to(site.sut.tensor.dtype), **more))


def sut(site: ReplayedSite) -> Tensor:
    assert site.sut is not None
    return site.sut.tensor.float().clone()


def entered(site: ReplayedSite, name: str) -> Tensor:
    return site.inputs[name].float()


def older(w: World, site: ReplayedSite) -> Tensor:
    """The same stage of another layer: what a buffer that is used again still holds."""
    assert site.layer is not None
    return sut(w.replay.site((site.layer + 1) % w.layers, site.stage))


def row_numbers(site: ReplayedSite, height: int | None) -> dict[str, Any]:
    """The geometry an engine states: each row's number inside its expert, and the tile height where it is told."""
    assert site.sut is not None
    experts = site.sut.expert
    assert experts is not None
    flat, number = experts.reshape(-1), np.zeros(experts.size, np.int64)
    launch = np.repeat(site.sut.launch, experts.shape[1])
    for one in np.unique(launch):
        for e in np.unique(flat):
            at = (flat == e) & (launch == one)
            number[at] = np.arange(at.sum())
    geometry = {} if height is None else {"tile_m": height}
    captures = tuple(dataclasses.replace(c, geometry=geometry) for c in site.sut.captures)
    return {"row_in_expert": number.reshape(experts.shape), "captures": captures}


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
    e = w.one(*np.unique(site.sut.expert).tolist())  # type: ignore[union-attr]
    at = np.argwhere(site.sut.expert == e)  # type: ignore[union-attr]
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
        number, experts = more["row_in_expert"], site.sut.expert  # type: ignore[union-attr]
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
    e = w.one(*np.unique(site.sut.expert).tolist())  # type: ignore[union-attr]
    at = np.argwhere(site.sut.expert == e)  # type: ignore[union-attr]
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


def ratio(w: World) -> Drawn | None:
    """One factor on the tensor, some heads, some experts, a column block, or a block of one expert."""
    kind = w.one("tensor", "head", "expert", "columns", "block", "router", "negative")
    factor = w.factor(0.005)
    if kind in ("tensor", "negative"):
        site = w.site(w.one(*ROWS, *EXPERT, "moe.act", "moe.experts", "logits", "final_norm", "resid.mid"))
        factor = -1.0 if kind == "negative" else factor
        x = sut(site) * factor
    elif kind == "router":
        site = w.site("moe.router_logits")
        x = sut(site) * factor
    elif kind == "head":
        site = w.site(w.one(*HEADS))
        x = sut(site)
        x[:, w.some(x.shape[1], 1, max(x.shape[1] // 2, 1))] *= factor
    elif kind == "expert":
        site = w.site(w.one(*EXPERT, "moe.act"))
        x, experts = sut(site), site.sut.expert  # type: ignore[union-attr]
        x[torch.from_numpy(np.isin(experts, w.some(w.hyper["experts"], 1, 3)))] *= factor
    elif kind == "columns":
        site = w.site(w.one("attn.out", "moe.experts", "mlp.norm"))
        x = sut(site)
        first = 128 * int(w.rng.integers(x.shape[1] // 128))
        x[:, first : first + 128] *= factor
    else:
        site = w.site("moe.down")
        x, experts = sut(site), site.sut.expert  # type: ignore[union-attr]
        first = 128 * int(w.rng.integers(x.shape[2] // 128))
        part = x[..., first : first + 128]
        part[torch.from_numpy(experts == w.one(*np.unique(experts)))] *= factor
    return Drawn(edited(site, x), (C.CONSTANT_RATIO,), f"{site.stage} {kind} x{factor:.4g}")


def row_ratio(w: World) -> Drawn | None:
    """A factor of its own for each row: a gate, a wrong eps, a row scale."""
    site = w.site(w.one("attn.out", "moe.experts", "mlp.norm", "moe.down", "moe.up"))
    x = sut(site)
    spread = float(w.rng.uniform(0.05, 1.5))
    size = x.shape[: x.ndim - 1]
    own = torch.from_numpy(np.exp(spread * w.rng.standard_normal(size))).float()[..., None]
    own = w.one(own, own.clamp(max=1.0), 1 / (1 + own))
    return Drawn(edited(site, x * own), (C.ROW_RATIO,), f"{site.stage} spread {spread:.2f}")


def channel_ratio(w: World) -> Drawn | None:
    """A norm's weight shifted by one, another layer's, or multiplied by noise."""
    site = w.site(w.one("attn.norm", "mlp.norm", "final_norm", "attn.q_norm", "attn.k_norm"))
    x = sut(site)
    name = next(iter(site.inputs))
    unit = entered(site, name)
    unit = unit * torch.rsqrt(unit.square().mean(-1, keepdim=True) + 1e-6)
    how = w.one("plus one", "minus one", "noise")
    if how == "noise":
        own = torch.from_numpy(np.exp(0.3 * w.rng.standard_normal(x.shape[-1]))).float()
        return Drawn(edited(site, x * own), (C.CHANNEL_RATIO,), f"{site.stage} {how}")
    x = x + unit * (1 if how == "plus one" else -1)
    return Drawn(edited(site, x), (C.CHANNEL_RATIO, C.MISSING_NORM), f"{site.stage} {how}")


def linear_delta(w: World, site: ReplayedSite, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The SUT's tensor plus what another weight adds: x (W' - W)^T; change gets (weight, expert)."""
    weight = w.replay.oracle.weight_of(site.stage, site.layer).float()  # type: ignore[attr-defined]
    name = next(n for n in site.inputs if n != "moe.topk_ids")
    x, given = sut(site), entered(site, name)
    if weight.ndim == 2:
        delta = given.flatten(1) @ (change(weight.clone(), -1) - weight).T
        return x + delta.view(x.shape)
    ids = site.inputs["moe.topk_ids"].long()
    given = given if given.ndim == 3 else given[:, None].expand(-1, ids.shape[1], -1)
    for e in range(len(weight)):
        at = ids == e
        x[at] += given[at] @ (change(weight[e].clone(), e) - weight[e]).T
    return x


def block_scales(w: World) -> Drawn | None:
    """The scales of the weight's 128x128 blocks stand at other blocks: transposed, rolled, or another expert's."""
    site = w.site(w.one("attn.q", "attn.out", "moe.gate", "moe.up", "moe.down"))
    how = w.one("transposed", "rolled", "flipped")
    only = w.one(None, int(w.rng.integers(w.hyper["experts"])))
    weight = w.replay.oracle.weight_of(site.stage, site.layer)  # type: ignore[attr-defined]
    grid = -(-weight.shape[-2] // 128), -(-weight.shape[-1] // 128)
    scales = np.exp(float(w.rng.uniform(0.1, 0.8)) * w.rng.standard_normal((w.hyper["experts"] + 1, *grid)))

    def change(one: Tensor, e: int) -> Tensor:
        if e >= 0 and only not in (None, e):
            return one
        own = scales[e]
        wrong = {
            "transposed": own.T.reshape(grid),
            "rolled": np.roll(own.reshape(-1), 1).reshape(grid),
            "flipped": own[::-1, ::-1],
        }[how]
        ratio = torch.from_numpy(wrong / own).float().repeat_interleave(128, 0).repeat_interleave(128, 1)
        return one * ratio[: one.shape[0], : one.shape[1]]

    if grid[0] * grid[1] < 3:
        return None
    return Drawn(edited(site, linear_delta(w, site, change)), (C.BLOCK_SCALES,), f"{site.stage} {how} of {only}")


def transposed(w: World) -> Drawn | None:
    site = w.site(w.one("attn.q", "attn.out", "attn.k", "moe.gate", "moe.down"))
    only = w.one(None, int(w.rng.integers(w.hyper["experts"])))

    def change(one: Tensor, e: int) -> Tensor:
        if e >= 0 and only not in (None, e):
            return one
        return one.reshape(one.shape[1], one.shape[0]).T

    return Drawn(edited(site, linear_delta(w, site, change)), (C.TRANSPOSED,), f"{site.stage} of {only}")


def half_of_k(w: World) -> Drawn | None:
    site = w.site(w.one("attn.q", "attn.out", "attn.v", "moe.up", "moe.down"))
    share, late = w.one(0.5, 0.5, 0.25, 0.75, 2 / 3), w.one(False, False, True)

    def change(one: Tensor, e: int) -> Tensor:
        used = round(one.shape[1] * share)
        if late:
            one[:, : one.shape[1] - used] = 0
        else:
            one[:, used:] = 0
        return one

    return Drawn(edited(site, linear_delta(w, site, change)), (C.HALF_OF_K,), f"{site.stage} {share:.2f} late={late}")


def k_tail(w: World) -> Drawn | None:
    """The last block of the contraction is left out: K is rounded down to a tile."""
    site = w.site(w.one("attn.q", "attn.out", "moe.up", "moe.down"))
    tile = w.one(32, 64, 128)

    def change(one: Tensor, e: int) -> Tensor:
        one[:, max((one.shape[1] - 1) // tile * tile, tile) :] = 0
        return one

    return Drawn(edited(site, linear_delta(w, site, change)), (C.HALF_OF_K,), f"{site.stage} tile {tile}")


def wrong_expert(w: World) -> Drawn | None:
    """Experts compute with another expert's weight."""
    site = w.site(w.one(*EXPERT))
    weight = w.replay.oracle.weight_of(site.stage, site.layer).float()  # type: ignore[attr-defined]
    how = w.one("next", "one", "swapped")
    experts = len(weight)
    source = np.arange(experts)
    if how == "next":
        source = np.roll(source, w.one(1, -1))
    else:
        a, b = w.rng.choice(experts, 2, replace=False)
        source[a] = b
        if how == "swapped":
            source[b] = a
    x = linear_delta(w, site, lambda one, e: weight[source[e]])
    return Drawn(edited(site, x), (C.WRONG_INPUT,), f"{site.stage} {how}")


def heads_moved(w: World) -> Drawn | None:
    site = w.site(w.one("attn.q", "attn.q_rope", "attn.context"))
    x = sut(site)
    heads = x.shape[1]
    how = w.one("shifted", "permuted", "aliased")
    if how == "shifted":
        return Drawn(edited(site, x.roll(w.one(1, -1), 1)), (C.HEADS_SHIFTED,), f"{site.stage} {how}")
    if how == "permuted":
        order = w.one(w.rng.permutation(heads), np.arange(heads).reshape(2, -1).T.reshape(-1))
        shifts = {(int(s) - n) % heads for n, s in enumerate(order)}
        if (order == np.arange(heads)).all() or len(shifts) == 1:
            return None
        return Drawn(edited(site, x[:, order.tolist()]), (C.HEADS_PERMUTED,), f"{site.stage} {order}")
    group = w.one(np.zeros(heads, int), np.arange(heads) // 2 * 2, np.where(np.arange(heads) == 3, 1, np.arange(heads)))
    return Drawn(edited(site, x[:, group.tolist()]), (C.HEADS_ALIASED,), f"{site.stage} {group}")


def head_spread(w: World) -> Drawn | None:
    site = w.site(w.one("attn.q", "attn.k", "attn.context", "attn.q_norm"))
    x = sut(site)
    if x.shape[1] < 3:
        return None
    spread = float(w.rng.uniform(0.2, 4))
    own = torch.from_numpy(np.exp(spread * w.rng.standard_normal(x.shape[1]))).float()[:, None]
    return Drawn(edited(site, x * own), (C.HEAD_SPREAD,), f"{site.stage} spread {spread:.2f}")


def head_part(w: World) -> Drawn | None:
    site = w.site(w.one("attn.q", "attn.k", "attn.v", "attn.q_norm", "attn.context"))
    x = sut(site)
    half = x.shape[2] // w.one(2, 4)
    part = w.one(slice(half, None), slice(0, half))
    how = w.one("random", "zero", "neighbour")
    other = {"random": w.randn(x), "zero": x * 0, "neighbour": x.roll(-1, 1)}[how]
    x[..., part] = other[..., part]
    return Drawn(edited(site, x), (C.HEAD_PART,), f"{site.stage} {part} {how}")


def column_segment(w: World) -> Drawn | None:
    stage = w.one("attn.out", "moe.down", "moe.experts", "moe.gate", "mlp.norm")
    site = w.site(stage)
    x = sut(site)
    width = x.shape[-1]
    how = w.one("random", "zero", "shuffled", "two exchanged")
    first = 8 * int(w.rng.integers(0, width // 8 - 2))
    last = min(first + 8 * int(w.rng.integers(1, 10)), width)
    if how == "two exchanged":
        a, b = w.rng.choice(width, 2, replace=False).tolist()
        inside = (
            torch.ones(x.shape[:-1], dtype=torch.bool)
            if stage not in EXPERT
            else torch.from_numpy(site.sut.expert == w.one(*np.unique(site.sut.expert)))  # type: ignore[union-attr]
        )
        own = x[inside]
        own[:, [a, b]] = own[:, [b, a]]
        x[inside] = own
    elif how == "shuffled":
        x[..., first:last] = x[..., first:last][..., torch.from_numpy(w.rng.permutation(last - first))]
    else:
        x[..., first:last] = 0.0 if how == "zero" else w.randn(x)[..., first:last]
    return Drawn(edited(site, x), (C.COLUMN_SEGMENT,), f"{stage} {first}..{last} {how}")


def values_narrow(w: World) -> Drawn | None:
    """E4M3 storage, a clipped cast, NaN."""
    how = w.one("e4m3", "e4m3 rows", "clipped", "nan")
    site = w.site(w.one("attn.k_rope", "attn.v", "attn.context", "moe.act", "attn.norm"))
    x = sut(site)
    if how == "e4m3":
        return Drawn(edited(site, x.clamp(-448, 448).to(torch.float8_e4m3fn).float()), (C.E4M3_GRID,), site.stage)
    if how == "e4m3 rows":
        flat = x.reshape(-1, x.shape[-1])
        scale = flat.abs().amax(1, keepdim=True).clamp(min=1e-9) / 448
        flat = (flat / scale).to(torch.float8_e4m3fn).float() * scale
        return Drawn(edited(site, flat.view(x.shape)), (C.E4M3_GRID,), f"{site.stage} rows")
    if how == "clipped":
        limit = float(x.abs().flatten().quantile(float(w.rng.uniform(0.8, 0.995))))
        x = x.clamp(-limit, limit) if w.one(True, False) else x.clamp(max=limit)
        return Drawn(edited(site, x), (C.SATURATED,), site.stage)
    x.view(-1)[torch.from_numpy(w.rng.integers(0, x.numel(), int(w.rng.integers(1, 200))))] = w.one(math.nan, math.inf)
    return Drawn(edited(site, x), (C.NONFINITE,), site.stage)


def missing_bias(w: World) -> Drawn | None:
    site = w.site(w.one(*LINEAR, "moe.router_logits", "moe.down", "moe.experts"))
    x = sut(site)
    one = torch.from_numpy(w.rng.standard_normal(tuple(x.shape[-1:] if x.ndim == 2 else x.shape[1:]))).float()
    if site.stage == "moe.down":
        one = torch.from_numpy(w.rng.standard_normal((w.hyper["experts"], x.shape[-1]))).float()
        one = one[torch.from_numpy(site.sut.expert).long()]  # type: ignore[union-attr]
    size = x.square().mean().sqrt() * float(w.rng.uniform(0.03, 1.0))
    return Drawn(edited(site, x + size * one), (C.MISSING_BIAS,), site.stage)
