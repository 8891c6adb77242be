"""Which patterns are planted into a healthy field? By formula, each with the cause that it must be read as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from parity.fingerprint import CAUSES, ErrorField, Fingerprint, read_fingerprints

Plant = Callable[[Any], Any]


@dataclass(frozen=True)
class Planted:
    """A pattern: the cause it must be read as, and the field that carries it in a lab."""

    cause: str
    plant: Plant
    check: Callable[[Any, Fingerprint], bool] = lambda lab, found: True
    sizes: tuple[int, ...] = (0, 1, 2)


def edited(stage: str, edit: Callable[[Any, torch.Tensor], torch.Tensor], **more: Any) -> Plant:
    """The healthy tensor of a stage, edited before the noise."""
    return lambda lab: lab.field(stage, edit(lab, lab.tensors[stage].clone()), **more)


def rows_of(lab: Any, expert: int) -> torch.Tensor:
    """[T, S] bool."""
    return lab.tensors["moe.topk_ids"] == expert


def past_cap(lab: Any, cap: int) -> torch.Tensor:
    return (lab.number >= cap).view(lab.tensors["moe.topk_ids"].shape)


def cap_of(lab: Any) -> int:
    """Half of the most loaded expert's rows, in tiles of 8."""
    return max(int(lab.number.max()) // 2 // 8 * 8, 8)


def put(value: torch.Tensor, where: Any, content: Any) -> torch.Tensor:
    value[where] = content
    return value


def scale(value: torch.Tensor, where: Any, factor: Any) -> torch.Tensor:
    value[where] = value[where] * factor
    return value


def shuffled(lab: Any, count: int, seed: int = 3) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def one_head(lab: Any, context: torch.Tensor) -> torch.Tensor:
    """The healthy context but for head 1, which is of the other one."""
    return put(lab.tensors["attn.context"].clone(), (slice(None), 1), context[:, 1])


def row_of_another_expert(lab: Any) -> ErrorField:
    """The first row of expert 1 is computed with the weight of expert 0."""
    value, ids = lab.tensors["moe.gate"].clone(), lab.tensors["moe.topk_ids"]
    token, slot = torch.nonzero(ids == 1)[0].tolist()
    value[token, slot] = lab.weights["moe.gate"][0] @ lab.tensors["mlp.norm"][token]
    return lab.field("moe.gate", value, related={"weight": lab.weights["moe.gate"]})


def scales_of_the_row_before(lab: Any) -> ErrorField:
    """Each 128 inputs of a row are dequantized with the scale of the row before."""
    x, width = lab.tensors["mlp.norm"], 128
    blocks = x.view(len(x), -1, width)
    largest = blocks.abs().amax(-1, keepdim=True)
    read = (blocks / largest * largest.roll(1, 0)).view_as(x)
    ids = lab.tensors["moe.topk_ids"]
    value = lab.by_expert(lab.weights["moe.gate"], read[:, None].expand(-1, ids.shape[1], -1), ids)
    return lab.field("moe.gate", value, related={"weight": lab.weights["moe.gate"]})


def input_rounded(lab: Any, dtype: torch.dtype, top: float, by: str) -> ErrorField:
    """The output projection of an input in an 8-bit format, one scale a block of 128, a row or the tensor."""
    x = lab.tensors["attn.context"].flatten(1)
    parts = x.split(128, 1) if by == "block" else [x]
    scales = [(part.abs().amax() if by == "tensor" else part.abs().amax(1, keepdim=True)) / top for part in parts]
    read = torch.cat([(part / s).to(dtype).float() * s for part, s in zip(parts, scales, strict=True)], 1)
    weight = lab.weights["attn.out"]
    return lab.field("attn.out", (read @ weight.T).bfloat16().float(), noisy=False, related={"weight": weight})


def embeddings_shifted(lab: Any) -> ErrorField:
    """Ids of the upper half of a vocabulary read the next row."""
    table = lab.normal(200, lab.size.D)
    ids = torch.randint(0, 199, (lab.size.T,), generator=lab.g)
    return ErrorField(
        "embed.out", None, table[ids], lab.noisy(table[torch.where(ids >= 100, ids + 1, ids)]), ("T", "D"),
        inputs={"ids": ids}, related={"weight": table},
    )  # fmt: skip


def rare_embeddings_scaled(lab: Any) -> ErrorField:
    """Rows of the last quarter of a vocabulary come out 5 % too large; the noise of BF16."""
    table = lab.normal(200, lab.size.D)
    ids = torch.randint(0, 200, (lab.size.T,), generator=lab.g)
    ids[0], ids[1] = 150, 149
    x = (table[ids] * torch.where(ids >= 150, 1.05, 1.0)[:, None]).bfloat16().float()
    return ErrorField("embed.out", None, table[ids], x, ("T", "D"), inputs={"ids": ids}, related={"weight": table})


def derangement(heads: int) -> list[int]:
    """Pairs exchanged: no constant shift for more than two heads."""
    order = list(range(heads))
    order[0], order[1] = order[1], order[0]
    return order


def rope(lab: Any, name: str, **how: Any) -> torch.Tensor:
    s, before = lab.size, lab.tensors[f"attn.{name}_norm"]
    at = torch.arange(s.T) + how.get("offset", 0)
    dim = how.get("dim", s.K)
    speed = lab.frequencies_of(how.get("theta", s.theta), dim)
    if "slow" in how:
        speed = torch.where(torch.arange(len(speed)) >= len(speed) // 2, speed / how["slow"], speed)
    if how.get("interleaved"):
        order = torch.cat([torch.arange(0, dim, 2), torch.arange(1, dim, 2)])
        return lab.rotated(before[..., order], at, speed)[..., order.argsort()]
    return lab.rotated(before, at, speed, dim)


def context(lab: Any, factor: float = 1.0, oldest: torch.Tensor | None = None) -> torch.Tensor:
    q, k, v = (lab.tensors[f"attn.{name}"] for name in ("q_rope", "k_rope", "v"))
    return lab.attend(q, k, v, factor * lab.size.K**-0.5, oldest)


def cached(lab: Any, by: int, what: str, start: int = 0) -> torch.Tensor:
    """Context over a cache whose slot s holds position s - by, from slot `start` on."""
    q, k, v = (lab.tensors[f"attn.{name}"] for name in ("q_rope", "k_rope", "v"))
    order = torch.arange(lab.size.T)
    order[start:] = (order[start:] - by).clamp(start, lab.size.T - 1)
    return lab.attend(q, k[order] if "k" in what else k, v[order] if "v" in what else v, lab.size.K**-0.5)


def paged(lab: Any, page: int, how: str) -> torch.Tensor:
    """Context over a cache whose page at the middle repeats the one before it, is exchanged with it, holds zeros, or
    pushes what follows a page on."""
    q, k, v = (lab.tensors[f"attn.{name}"] for name in ("q_rope", "k_rope", "v"))
    first, at = middle(lab, page), torch.arange(lab.size.T)
    slots = at.clone()
    if how == "late":
        slots[first:] -= page
    else:
        slots[first : first + page] -= page
    if how == "exchanged":
        slots[first - page : first] += page
    k, v = k[slots], v[slots]
    if how == "zero":
        k[first : first + page], v[first : first + page] = 0, 0
    return lab.attend(q, k, v, lab.size.K**-0.5)


def middle(lab: Any, page: int) -> int:
    return lab.size.T // 2 // page * page


def merged(lab: Any, size: int, first: int = 0) -> torch.Tensor:
    """Context whose splits of `size` keys are averaged, in queries from `first` on."""
    parts, counts = 0.0, torch.zeros(lab.size.T)
    at = torch.arange(lab.size.T)
    for start in range(0, lab.size.T, size):
        outside = ((at < start) | (at >= start + size))[None, :].expand(lab.size.T, -1)
        counts += at >= start
        parts = parts + torch.nan_to_num(seeing(lab, outside), 0.0)
    mean = parts / counts[:, None, None]
    return torch.cat([lab.tensors["attn.context"][:first], mean[first:]])


def seeing(lab: Any, unseen: torch.Tensor | None = None, heads: list[int] | None = None) -> torch.Tensor:
    q, k, v = (lab.tensors[f"attn.{name}"] for name in ("q_rope", "k_rope", "v"))
    return lab.attend(q, k, v, lab.size.K**-0.5, None, unseen, heads)


def window(lab: Any, size: int) -> torch.Tensor:
    at = torch.arange(lab.size.T)
    return at[None, :] <= at[:, None] - size


def first_keys(lab: Any, count: int) -> torch.Tensor:
    at = torch.arange(lab.size.T)
    return (at[None, :] < count) & (at[:, None] >= count)


def in_e4m3(lab: Any) -> torch.Tensor:
    q, k, v = (lab.tensors[f"attn.{name}"] for name in ("q_rope", "k_rope", "v"))
    return lab.attend(q, e4m3(k, 1.0), e4m3(v, 1.0), lab.size.K**-0.5)


def activated(lab: Any, function: Callable[[torch.Tensor], torch.Tensor], swapped: bool = False) -> torch.Tensor:
    gate, up = (lab.tensors[f"moe.{name}"] for name in (("up", "gate") if swapped else ("gate", "up")))
    return function(gate) * up


def other_weights(lab: Any, source: list[int]) -> torch.Tensor:
    x, ids = lab.tensors["moe.act"], lab.tensors["moe.topk_ids"].long()
    return lab.by_expert(lab.weights["moe.down"][source], x, ids)


def few_rows_moved(lab: Any) -> torch.Tensor:
    """Five rows of expert 0 in a circle."""
    value = lab.tensors["moe.gate"].clone()
    at = rows_of(lab, 0).nonzero()[3:8]
    value[at[:, 0], at[:, 1]] = value[at[:, 0], at[:, 1]].roll(1, 0)
    return value


def columns_moved(lab: Any, expert: int) -> torch.Tensor:
    value = lab.tensors["moe.down"].clone()
    rows = value[rows_of(lab, expert)]
    rows[:, [3, 29]] = rows[:, [29, 3]]
    value[rows_of(lab, expert)] = rows
    return value


def router_rows_moved(lab: Any) -> torch.Tensor:
    """Two rows of the router's weight in each other's place."""
    value = lab.tensors["moe.router_logits"].clone()
    value[:, [1, 4]] = value[:, [4, 1]]
    return value


def columns_shifted(lab: Any, expert: int, by: int) -> torch.Tensor:
    """Every column of one expert's rows is its neighbour's."""
    value = lab.tensors["moe.up"].clone()
    value[rows_of(lab, expert)] = value[rows_of(lab, expert)].roll(by, 1)
    return value


def values_of_head(lab: Any, group: int) -> torch.Tensor:
    """Attention with every head's own keys, and with the values of one key/value head for all."""
    t = lab.tensors
    v = t["attn.v"][:, [group] * t["attn.v"].shape[1]]
    return lab.attend(t["attn.q_rope"], t["attn.k_rope"], v, lab.size.K**-0.5)


def slot_lost(lab: Any, slot: int, first: int) -> torch.Tensor:
    """`moe.experts` without one slot's part from row `first` on."""
    weights = lab.tensors["moe.topk_weights"].clone()
    weights[first:, slot] = 0
    return (weights[..., None] * lab.tensors["moe.down"]).sum(1)


def added_with(lab: Any, weights: Callable[[torch.Tensor], torch.Tensor], first: int = 0) -> torch.Tensor:
    """`moe.experts` with other weights from row `first` on."""
    own = lab.tensors["moe.topk_weights"]
    used = torch.cat([own[:first], weights(own)[first:]])
    return (used[..., None] * lab.tensors["moe.down"]).sum(1)


def from_100(lab: Any) -> int:
    return 100 if lab.size.T > 200 else 50


def keys_late(lab: Any) -> torch.Tensor:
    """Keys rotated by one position more from some token on."""
    own, further = rope(lab, "k"), rope(lab, "k", offset=1)
    return torch.cat([own[: from_100(lab)], further[from_100(lab) :]])


def rows_late(lab: Any) -> torch.Tensor:
    value = lab.tensors["attn.k"].clone()
    value[from_100(lab) :] = lab.tensors["attn.k"][from_100(lab) - 1 : -1]
    return value


def beyond_the_limit(rows: int, first: int) -> Plant:
    """A tall field whose rows from `first` on stay zero; the lab's own sizes are far below the limit."""

    def plant(lab: Any) -> Any:
        y = torch.randn(rows, 8, generator=torch.Generator().manual_seed(first))
        x = y + 0.03 * torch.randn(rows, 8, generator=torch.Generator().manual_seed(first + 1))
        return ErrorField("attn.out", 0, y, put(x.bfloat16(), slice(first, None), 0.0), ("T", "D"))

    return plant


def chunk(lab: Any) -> int:
    return 32 if lab.size.T < 200 else 128


def scales_transposed(lab: Any, stage: str, source: str) -> torch.Tensor:
    """Each expert's weight with the 128x128 scales of the transposed block grid (read in the other order)."""
    weight = lab.weights[stage]
    experts, out, inside = weight.shape
    a, b = -(-out // 128), -(-inside // 128)
    scales = 0.5 + torch.rand(experts, a, b, generator=torch.Generator().manual_seed(5))
    wrong = scales.transpose(1, 2).reshape(experts, a, b) if a * b > 1 else scales.roll(1, 0)
    ratio = (wrong / scales).repeat_interleave(128, 1)[:, :out].repeat_interleave(128, 2)[:, :, :inside]
    x = lab.tensors[source]
    x = x if x.ndim == 3 else x[:, None].expand(-1, lab.size.S, -1)
    return lab.by_expert(weight * ratio, x, lab.tensors["moe.topk_ids"].long())


def dense_scales(lab: Any) -> torch.Tensor:
    """attn.out under misplaced scales of its weight's blocks."""
    weight = lab.weights["attn.out"]
    out, inside = weight.shape
    g = torch.Generator().manual_seed(6)
    ratio = torch.exp(torch.randn(-(-out // 128), -(-inside // 128), generator=g))
    ratio = ratio.repeat_interleave(128, 0)[:out].repeat_interleave(128, 1)[:, :inside]
    return lab.tensors["attn.context"].flatten(1) @ (weight * ratio).T


def by_weight(lab: Any, stage: str, source: str, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    x = lab.tensors[source].flatten(1)
    return (x @ change(lab.weights[stage]).T).view(lab.tensors[stage].shape)


def half_of_k(weight: torch.Tensor) -> torch.Tensor:
    return put(weight.clone(), (slice(None), slice(weight.shape[1] // 2, None)), 0.0)


def random_like(value: torch.Tensor, seed: int = 8) -> torch.Tensor:
    flat = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
    return flat * value.square().mean().sqrt()


def tokens_after(lab: Any, share: float) -> slice:
    return slice(int(lab.size.T * share), None)


def phases(lab: Any) -> dict[str, Any]:
    decode = np.arange(lab.size.T) >= lab.size.T - 12
    return {
        "phase": np.where(decode, "decode", "prefill"),
        "launch": np.maximum(np.arange(lab.size.T) - (lab.size.T - 13), 0),
    }


def launches(lab: Any) -> dict[str, Any]:
    return {"launch": np.arange(lab.size.T) // chunk(lab)}


def late_chunk(lab: Any) -> Any:
    oldest = torch.arange(lab.size.T) // chunk(lab) * chunk(lab)
    return replace(lab.field("attn.context", context(lab, oldest=oldest)), **launches(lab))


def chunk_other_stage(lab: Any) -> Any:
    value = lab.tensors["attn.out"].clone()
    value[chunk(lab) :] += 0.5 * random_like(value)[chunk(lab) :]
    return lab.field("attn.out", value)


def tile(lab: Any, stage: str, factor: float, columns: slice) -> Any:
    """A third of the rows of the most loaded expert."""
    n = int(rows_of(lab, 0).sum())
    inside = rows_of(lab, 0) & (lab.number.view(lab.tensors["moe.topk_ids"].shape) < n // 3)
    value = lab.tensors[stage].clone()
    value[..., columns] = torch.where(inside[..., None], factor, 1.0) * value[..., columns]
    return lab.field(stage, value)


def tile_but_few_rows(lab: Any, beyond: int) -> Any:
    """The first tile of the most loaded expert, which has few rows beyond it."""
    n = int(rows_of(lab, 0).sum())
    inside = rows_of(lab, 0) & (lab.number.view(lab.tensors["moe.topk_ids"].shape) < n - beyond)
    value = torch.where(inside[..., None], 3.0, 1.0) * lab.tensors["moe.up"]
    return lab.field("moe.up", value, tile_m=n - beyond)


def renormalized(lab: Any) -> torch.Tensor:
    return lab.tensors["moe.router_logits"].softmax(1).gather(1, lab.tensors["moe.topk_ids"].long())


def routed_by(lab: Any, function: Callable[[torch.Tensor], torch.Tensor], whole: bool = True) -> torch.Tensor:
    """Routing weights by another function than a softmax; whole: renormalized over the chosen experts."""
    weights = function(lab.tensors["moe.router_logits"]).gather(1, lab.tensors["moe.topk_ids"].long())
    return weights / weights.sum(1, keepdim=True) if whole else weights


def flipped_by_ties(lab: Any, margin: float = 2.0**-22) -> Any:
    """Every ninth token takes the next best expert, whose logit is below that of the last chosen by `margin` of it."""
    logits, ids = lab.tensors["moe.router_logits"].clone(), lab.tensors["moe.topk_ids"].clone()
    order = logits.argsort(1, descending=True)
    tied = torch.arange(0, lab.size.T, 9)
    value = logits[tied, order[tied, lab.size.S - 1]]
    logits[tied, order[tied, lab.size.S]] = value * (1 - margin * value.sign())
    ids[tied, lab.size.S - 1] = order[tied, lab.size.S].int()
    return lab.field("moe.topk_ids", ids, inputs={"moe.router_logits": logits})


def by_coarse_keys(lab: Any, kept: int = 5) -> Any:
    """Top-k of keys with `kept` bits of mantissa, ties to the lower expert."""
    logits = lab.tensors["moe.router_logits"].float()
    keys = (logits.contiguous().view(torch.int32) & -(1 << (23 - kept))).view(torch.float32)
    ids = keys.sort(dim=1, descending=True, stable=True).indices[:, : lab.size.S].int()
    return lab.field("moe.topk_ids", ids)


def ids_of_another(lab: Any) -> Any:
    ids = lab.normal(lab.size.T, lab.size.E).topk(lab.size.S).indices.int()
    return lab.field("moe.topk_ids", ids)


def spread(lab: Any, stage: str) -> torch.Tensor:
    value = lab.tensors[stage]
    return value * torch.exp(torch.linspace(-4, 4, value.shape[1]))[None, :, None]


def swapped(lab: Any) -> Any:
    field = lab.field("moe.gate", lab.tensors["moe.up"])
    return replace(field, related={"moe.up": lab.tensors["moe.up"]})


def other_input(lab: Any) -> Any:
    read = by_weight(lab, "moe.router_logits", "resid.in", lambda w: w)
    related = {"moe.router_logits<-resid.in": read, "moe.router_logits<-attn.norm": read * 0 + 1}
    return replace(lab.field("moe.router_logits", read), related=related)


def older(lab: Any) -> Any:
    """v is bound to the context of an older launch."""
    old = random_like(lab.tensors["attn.v"], 11)
    return replace(lab.field("attn.v", old), related={"sut:attn.v of launch 0": old})


def e4m3(value: torch.Tensor, scale_: torch.Tensor | float) -> torch.Tensor:
    return (value / scale_).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale_


def check_cause(lab: Any, planted: Planted) -> None:
    """Whether what was planted is read first, with a score, and as its check asks."""
    found = read_fingerprints(planted.plant(lab))
    told = [(f.cause, round(f.score, 3)) for f in found]
    assert found, "nothing was read"
    assert found[0].cause == planted.cause, told
    assert 0 < found[0].score <= 1
    assert {f.cause for f in found} <= set(CAUSES)
    assert planted.check(lab, found[0]), (found[0].numbers, found[0].slice)
