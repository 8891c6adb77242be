"""Which faults of values are drawn at random? Factors, weights, heads, columns, number formats, biases."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from random_faults import EXPERT, HEADS, LINEAR, ROWS, Drawn, Tensor, World, edited, entered, experts_of, sut

from parity.fingerprint import causes as C
from parity.ladder.replay import ReplayedSite


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
        x, experts = sut(site), experts_of(site)
        x[torch.from_numpy(np.isin(experts, w.some(w.hyper["experts"], 1, 3)))] *= factor
    elif kind == "columns":
        site = w.site(w.one("attn.out", "moe.experts", "mlp.norm"))
        x = sut(site)
        first = 128 * int(w.rng.integers(x.shape[1] // 128))
        x[:, first : first + 128] *= factor
    else:
        site = w.site("moe.down")
        x, experts = sut(site), experts_of(site)
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
            else torch.from_numpy(experts_of(site) == w.one(*np.unique(experts_of(site))))
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
        one = one[torch.from_numpy(experts_of(site)).long()]
    size = x.square().mean().sqrt() * float(w.rng.uniform(0.03, 1.0))
    return Drawn(edited(site, x + size * one), (C.MISSING_BIAS,), site.stage)
