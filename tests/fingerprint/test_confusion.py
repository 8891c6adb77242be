"""Is each planted pattern read as its own cause, before every other one, at three sizes and in FP8 noise?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from parity.fingerprint import CAUSES, Fingerprint, causes, read_fingerprints

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


def renormalized(lab: Any) -> torch.Tensor:
    return lab.tensors["moe.router_logits"].softmax(1).gather(1, lab.tensors["moe.topk_ids"].long())


def flipped_by_ties(lab: Any) -> Any:
    logits, ids = lab.tensors["moe.router_logits"].clone(), lab.tensors["moe.topk_ids"].clone()
    order = logits.argsort(1, descending=True)
    tied = torch.arange(0, lab.size.T, 9)
    value = logits[tied, order[tied, lab.size.S - 1]]
    logits[tied, order[tied, lab.size.S]] = value * (1 - 1e-3 * value.sign())
    ids[tied, lab.size.S - 1] = order[tied, lab.size.S].int()
    return lab.field("moe.topk_ids", ids, inputs={"moe.router_logits": logits})


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


C = causes
T = {
    "zero past a tile": Planted(
        C.NEVER_WRITTEN, edited("moe.gate", lambda lab, v: put(v, past_cap(lab, cap_of(lab)), 0.0)),
        lambda lab, f: f.numbers["cap"] == cap_of(lab),
    ),
    "stale past a tile": Planted(
        C.STALE, edited("moe.down", lambda lab, v: torch.where(past_cap(lab, cap_of(lab))[...,
        None], random_like(v), v)),
    ),
    "NaN past a tile": Planted(
        C.NEVER_WRITTEN, edited("moe.up", lambda lab, v: put(v, past_cap(lab, cap_of(lab)), math.nan)),
    ),
    "rows zero": Planted(C.ROWS_UNWRITTEN, edited("attn.out", lambda lab, v: put(v, slice(5, None, 7), 0.0))),
    "last rows zero": Planted(C.ROWS_UNWRITTEN, edited("attn.q", lambda lab, v: put(v, tokens_after(lab, 0.83), 0.0))),
    "rows stale": Planted(
        C.ROWS_STALE, edited("attn.k", lambda lab, v: put(v, slice(3, None, 5), random_like(v)[3::5])),
    ),
    "tile x5": Planted(
        C.TILE_AMPLIFIED, lambda lab: tile(lab, "moe.up", 5.0, slice(None)),
        lambda lab, f: abs(f.numbers["factor"] - 5) < 0.05 and f.slice.experts == (0,),
    ),
    "tile x1.25, columns": Planted(
        C.TILE_AMPLIFIED, lambda lab: tile(lab, "moe.gate", 1.25, slice(16, 40)),
        lambda lab, f: abs(f.numbers["factor"] - 1.25) < 0.02 and f.slice.columns == (16, 40),
    ),
    "tile x2 of tokens": Planted(
        C.TILE_AMPLIFIED, edited("attn.out", lambda lab, v: scale(v, (slice(16, 64), slice(0, 32)), 2.0)),
        lambda lab, f: f.slice.columns == (0, 32) and (f.numbers["first_row"], f.numbers["last_row"]) == (16, 63),
    ),
    "tile x0.5": Planted(C.TILE_AMPLIFIED, lambda lab: tile(lab, "moe.down", 0.5, slice(None))),
    "tensor x1.3": Planted(
        C.CONSTANT_RATIO, edited("attn.q", lambda lab, v: v * 1.3),
        lambda lab, f: f.numbers["kind"] == "tensor" and abs(f.numbers["factor"] - 1.3) < 0.01,
    ),
    "tensor x1000": Planted(C.CONSTANT_RATIO, edited("moe.down", lambda lab, v: v * 1000)),
    "head x0.8": Planted(
        C.CONSTANT_RATIO, edited("attn.context", lambda lab, v: scale(v, (slice(None), 1), 0.8)),
        lambda lab, f: f.slice.heads == (1,),
    ),
    "expert x1.2": Planted(
        C.CONSTANT_RATIO, edited("moe.gate", lambda lab, v: scale(v, rows_of(lab, 1), 1.2)),
        lambda lab, f: f.slice.experts == (1,) and f.numbers["kind"] == "expert",
    ),
    "rows by their own factors": Planted(
        C.ROW_RATIO, edited("attn.out", lambda lab, v: v * torch.linspace(0.3, 0.9, lab.size.T)[:, None]),
    ),
    "channels by their own factors": Planted(
        C.CHANNEL_RATIO, edited("moe.down", lambda lab, v: v * (0.2 + torch.rand(v.shape[-1], generator=lab.g))),
    ),
    "block scales, experts": Planted(
        C.BLOCK_SCALES, lambda lab: lab.field(
            "moe.down", scales_transposed(lab, "moe.down", "moe.act"), related={"weight": lab.weights["moe.down"]}
        ),
    ),
    "block scales, dense": Planted(
        C.BLOCK_SCALES, lambda lab: lab.field("attn.out", dense_scales(lab),
        related={"weight": lab.weights["attn.out"]}),
        sizes=(1, 2),  # the smallest has one block
    ),
    "block scales, weight solved": Planted(
        C.BLOCK_SCALES, lambda lab: lab.field("attn.out", dense_scales(lab)), sizes=(2,)
    ),
    "heads wild": Planted(C.HEAD_SPREAD, lambda lab: lab.field("attn.q", spread(lab, "attn.q"))),
    "heads shifted": Planted(C.HEADS_SHIFTED, edited("attn.q", lambda lab, v: v.roll(1, 1))),
    "heads permuted": Planted(C.HEADS_PERMUTED, edited("attn.context", lambda lab, v: v[:, derangement(v.shape[1])])),
    "key heads swapped": Planted(C.HEADS_PERMUTED, edited("attn.k", lambda lab, v: v[:, derangement(v.shape[1])])),
    "heads aliased": Planted(
        C.HEADS_ALIASED, edited("attn.v", lambda lab, v: put(v, (slice(None), 1), v[:, 0])),
        lambda lab, f: f.numbers["source_of_head"] == {"1": 0},
    ),
    "upper half of each head": Planted(
        C.HEAD_PART, edited("attn.q_norm", lambda lab, v: put(v, (..., slice(lab.size.K // 2, None)),
                                                             random_like(v)[..., lab.size.K // 2 :])),
    ),
    "a segment": Planted(
        C.COLUMN_SEGMENT, edited("attn.out", lambda lab, v: put(v, (..., slice(16, 40)), random_like(v)[..., 16:40])),
    ),
    "rows permuted": Planted(C.ROWS_PERMUTED, edited("attn.out", lambda lab, v: v[shuffled(lab, len(v))])),
    "expert rows permuted": Planted(
        C.ROWS_PERMUTED, edited("moe.down", lambda lab, v: v.flatten(0, 1)[shuffled(lab, lab.size.T * 2)].view_as(v)),
    ),
    "rows shifted": Planted(
        C.ROWS_SHIFTED, edited("attn.v", lambda lab, v: torch.cat([v[:1], v[:-1]])), lambda lab,
        f: f.numbers["shift"] == 1,
    ),
    "row 0 right": Planted(C.FIRST_ROW_RIGHT, edited("attn.context", lambda lab,
    v: torch.cat([v[:1], random_like(v)[1:]]))),
    "chunk context lost": Planted(C.CHUNK_BOUNDARY, late_chunk, lambda lab,
    f: f.numbers["first_position"] == chunk(lab)),
    "step at a chunk": Planted(
        C.CHUNK_BOUNDARY, chunk_other_stage, lambda lab, f: f.numbers["first_position"] == chunk(lab)
    ),
    "prefill alone": Planted(
        C.PHASE_ONLY,
        lambda lab: replace(lab.field("attn.out", torch.cat([
            (lab.tensors["attn.out"] + 0.4 * random_like(lab.tensors["attn.out"]))[:-12], lab.tensors["attn.out"][-12:],
        ])), **phases(lab)),
    ),
    "transposed": Planted(
        C.TRANSPOSED, lambda lab: lab.field("attn.q", by_weight(lab, "attn.q", "attn.norm",
                                                               lambda w: w.reshape(w.shape[1], w.shape[0]).T)),
    ),
    "half of K": Planted(
        C.HALF_OF_K, lambda lab: lab.field("attn.k", by_weight(lab, "attn.k", "attn.norm", half_of_k)),
        sizes=(0, 2),  # the middle one has fewer tokens than inputs: its weight cannot be solved
    ),
    "half of K, weight given": Planted(
        C.HALF_OF_K, lambda lab: lab.field("attn.k", by_weight(lab, "attn.k", "attn.norm", half_of_k),
                                           related={"weight": lab.weights["attn.k"]}),
    ),
    "E4M3, scale 1": Planted(C.E4M3_GRID, edited("attn.v", lambda lab, v: e4m3(v, 1.0), noisy=False)),
    "E4M3, row scales": Planted(
        C.E4M3_GRID,
        edited("attn.k_rope", lambda lab, v: e4m3(v.flatten(1), v.flatten(1).abs().amax(1, keepdim=True) / 448)
               .view_as(v).bfloat16(), noisy=False),
    ),
    "clipped": Planted(
        C.SATURATED, edited("attn.norm", lambda lab, v: v.clamp(-1, 1), noisy=False),
        lambda lab, f: f.numbers["limit"] == 1,
    ),
    "NaN": Planted(C.NONFINITE, edited("attn.context", lambda lab, v: put(v, (slice(40, None), 2), math.nan))),
    "one infinity": Planted(C.NONFINITE, edited("attn.q", lambda lab, v: put(v, (9, 0, 1), math.inf))),
    "rope base": Planted(
        C.ROPE_THETA, lambda lab: lab.field("attn.q_rope", rope(lab, "q", theta=lab.size.theta / 37)),
        lambda lab, f: abs(f.numbers["theta"] * 37 / lab.size.theta - 1) < 0.02,
    ),
    "rope base of keys": Planted(
        C.ROPE_THETA, lambda lab: lab.field("attn.k_rope", rope(lab, "k", theta=lab.size.theta * 5)),
    ),
    "yarn": Planted(C.ROPE_SCALING, lambda lab: lab.field("attn.k_rope", rope(lab, "k", slow=64.0))),
    "rope off by one": Planted(
        C.ROPE_POSITION, lambda lab: lab.field("attn.q_rope", rope(lab, "q", offset=1)),
        lambda lab, f: f.numbers["offset"] == 1,
    ),
    "rope off by -17": Planted(
        C.ROPE_POSITION, lambda lab: lab.field("attn.k_rope", rope(lab, "k", offset=-17)),
        lambda lab, f: f.numbers["offset"] == -17,
    ),
    "rope of half the head": Planted(
        C.ROPE_PARTIAL, lambda lab: lab.field("attn.q_rope", rope(lab, "q", dim=lab.size.K // 2)),
        lambda lab, f: f.numbers["rotated"] == lab.size.K // 2,
    ),
    "rope interleaved": Planted(C.ROPE_PAIRING, lambda lab: lab.field("attn.q_rope", rope(lab, "q", interleaved=True))),
    "no rope": Planted(C.ROPE_PARTIAL, lambda lab: lab.field("attn.q_rope", lab.tensors["attn.q_norm"])),
    "softmax too sharp": Planted(
        C.SOFTMAX_SCALE, lambda lab: lab.field("attn.context", context(lab, math.sqrt(320 / 128))),
        lambda lab, f: abs(f.numbers["factor"] / math.sqrt(320 / 128) - 1) < 0.02,
    ),
    "softmax too flat": Planted(C.SOFTMAX_SCALE, lambda lab: lab.field("attn.context", context(lab, 0.25))),
    "no softmax": Planted(
        C.SOFTMAX_SCALE, lambda lab: lab.field("attn.context", context(lab, 0.0)), lambda lab,
        f: f.numbers["factor"] == 0
    ),
    "norm missing": Planted(C.MISSING_NORM, lambda lab: lab.field("attn.norm", lab.tensors["resid.in"])),
    "head norm missing": Planted(C.MISSING_NORM, lambda lab: lab.field("attn.q_norm", lab.tensors["attn.q"])),
    "division missing": Planted(
        C.MISSING_NORM, lambda lab: lab.field("mlp.norm", lab.tensors["resid.mid"] * lab.weights["mlp.norm"]),
        lambda lab, f: f.numbers["left_out"] == "the division by the root mean square",
    ),
    "norm weight missing": Planted(
        C.MISSING_NORM, lambda lab: lab.field("mlp.norm", lab.tensors["mlp.norm"] / lab.weights["mlp.norm"]),
        lambda lab, f: f.numbers["left_out"] == "the weight",
    ),
    "residual missing": Planted(
        C.MISSING_RESIDUAL, lambda lab: lab.field("resid.mid", lab.tensors["attn.out"]),
        lambda lab, f: f.numbers == {"term": "resid.in", "times": 0},
    ),
    "branch missing": Planted(
        C.MISSING_RESIDUAL, lambda lab: lab.field("resid.mid", lab.tensors["resid.in"]),
        lambda lab, f: f.numbers == {"term": "attn.out", "times": 0},
    ),
    "gate is up": Planted(C.GATE_UP_SWAPPED, swapped),
    "router reads another buffer": Planted(
        C.WRONG_INPUT, other_input, lambda lab, f: f.numbers["read_instead"] == "resid.in"
    ),
    "older buffer": Planted(C.WRONG_INPUT, older),
    "weights not renormalized": Planted(
        C.WEIGHTS_NOT_NORMALIZED, lambda lab: lab.field("moe.topk_weights", renormalized(lab))
    ),
    "near ties": Planted(C.ROUTER_NEAR_TIE, flipped_by_ties),
    "ids of other logits": Planted(C.ROUTER_WRONG_IDS, ids_of_another),
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, planted in T.items() for size in planted.sizes])
def test_the_planted_cause_comes_first(lab, name, size):
    made = lab(size)
    found = read_fingerprints(T[name].plant(made))
    told = [(f.cause, round(f.score, 3)) for f in found]
    assert found, "nothing was read"
    assert found[0].cause == T[name].cause, told
    assert 0 < found[0].score <= 1
    assert set(f.cause for f in found) <= set(CAUSES)
    assert T[name].check(made, found[0]), (found[0].numbers, found[0].slice)


def test_every_detector_is_met_by_a_plant():
    """A detector that no plant reaches is not tested."""
    from parity.fingerprint import DETECTORS

    assert {planted.cause for planted in T.values()} <= set(CAUSES)
    assert len({planted.cause for planted in T.values()}) >= len(DETECTORS)
