"""Is each planted pattern of rows, factors, heads, values, norms and routing read as its own cause, at three sizes?"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from parity.fingerprint import causes as C
from tests.fingerprint.plants import (
    Planted,
    by_coarse_keys,
    by_weight,
    cap_of,
    check_cause,
    chunk,
    chunk_other_stage,
    context,
    dense_scales,
    derangement,
    e4m3,
    edited,
    embeddings_shifted,
    flipped_by_ties,
    half_of_k,
    ids_of_another,
    input_rounded,
    late_chunk,
    older,
    one_head,
    other_input,
    past_cap,
    phases,
    put,
    random_like,
    rare_embeddings_scaled,
    renormalized,
    rope,
    row_of_another_expert,
    rows_of,
    scale,
    scales_of_the_row_before,
    scales_transposed,
    shuffled,
    spread,
    swapped,
    tile,
    tokens_after,
)

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
    "a column x0.9": Planted(
        C.CONSTANT_RATIO,
        edited("moe.router_logits", lambda lab, v: scale(v, (slice(None), 3), 0.9), noisy=False),
        lambda lab, f: f.slice.experts == (3,),
        sizes=(1, 2),  # five columns are few, as slots are
    ),
    "columns x0.9, all others 1e-7 off": Planted(
        C.CONSTANT_RATIO,
        edited("attn.out", lambda lab, v: scale(v * (1 - 3e-7), (slice(None), slice(128, 256)), 0.9), noisy=False),
        lambda lab, f: f.slice.columns == (128, 256),
        sizes=(1,),
    ),
    "every seventh row x1.1": Planted(
        C.CONSTANT_RATIO, edited("attn.out", lambda lab, v: scale(v, slice(4, None, 7), 1.1)),
        lambda lab, f: f.numbers["kind"] == "rows" and abs(f.numbers["factor"] - 1.1) < 0.01
        and f.numbers["rows"] == len(range(4, lab.size.T, 7)) and f.slice.positions is None,
    ),
    "embeddings of rare ids x1.05": Planted(
        C.CONSTANT_RATIO, rare_embeddings_scaled,
        lambda lab, f: "those of ids from 150 on" in f.sentence and abs(f.numbers["factor"] - 1.05) < 0.001,
    ),
    "rows by their own factors": Planted(
        C.ROW_RATIO, edited("attn.out", lambda lab, v: v * torch.linspace(0.3, 0.9, lab.size.T)[:, None]),
    ),
    "input scales of the row before": Planted(
        C.ROW_RATIO, scales_of_the_row_before, lambda lab, f: f.numbers["blocks_of_inputs"] == lab.size.D // 128,
        sizes=(1, 2),  # the smallest has one block of inputs
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
    "a segment of whole heads": Planted(
        C.COLUMN_SEGMENT, edited("attn.v", lambda lab, v: put(v, (slice(None), 1), random_like(v)[:, 1])),
        lambda lab, f: f.slice.heads == (1,) and f.slice.columns is None,
        sizes=(1, 2),
    ),
    "columns empty": Planted(
        C.COLUMN_SEGMENT, edited("mlp.norm", lambda lab, v: put(v, (..., slice(128, 256)), 0.0)),
        lambda lab, f: f.slice.columns == (128, 256) and f.numbers["holds"] == "zero",
        sizes=(1,),
    ),
    "the second slot's weights": Planted(
        C.CHANNEL_RATIO, edited("moe.topk_weights", lambda lab, v: put(v.clone(), (slice(None), 1), v[:, 1] * 1.1)),
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
    "a part of decode halved": Planted(
        C.PHASE_ONLY,
        lambda lab: replace(lab.field("attn.out", put(
            lab.tensors["attn.out"].clone(), (slice(-12, None), slice(16, 40)), lab.tensors["attn.out"][-12:, 16:40] / 2
        )), **phases(lab)),
    ),
    "decode wrong throughout": Planted(
        C.PHASE_ONLY,
        lambda lab: replace(lab.field("attn.out", torch.cat([
            lab.tensors["attn.out"][:-12], (lab.tensors["attn.out"] + 0.4 * random_like(lab.tensors["attn.out"]))[-12:],
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
    "input in E5M2 by block": Planted(
        C.NARROW_GRID, lambda lab: input_rounded(lab, torch.float8_e5m2, 57344.0, "block"),
        lambda lab, f: f.numbers["input"] == "E5M2" and f.score > 0.9,
    ),
    "input in E5M2 by row": Planted(
        C.NARROW_GRID, lambda lab: input_rounded(lab, torch.float8_e5m2, 57344.0, "row"),
    ),
    "input in E4M3 by tensor": Planted(
        C.E4M3_GRID, lambda lab: input_rounded(lab, torch.float8_e4m3fn, 448.0, "tensor"),
        lambda lab, f: (f.numbers["input"], f.numbers["scale"]) == ("E4M3", "the tensor"),
    ),
    "E4M3, scale 1": Planted(C.E4M3_GRID, edited("attn.v", lambda lab, v: e4m3(v, 1.0), noisy=False)),
    "E4M3, row scales": Planted(
        C.E4M3_GRID,
        edited("attn.k_rope", lambda lab, v: e4m3(v.flatten(1), v.flatten(1).abs().amax(1, keepdim=True) / 448)
               .view_as(v).bfloat16(), noisy=False),
    ),
    "logits in bf16": Planted(
        C.NARROW_GRID, edited("moe.router_logits", lambda lab, v: v.bfloat16().float(), noisy=False),
        lambda lab, f: f.numbers["dtype"] == "bfloat16",
    ),
    "weights in fp16": Planted(
        C.NARROW_GRID, edited("moe.topk_weights", lambda lab, v: v.half().float(), noisy=False),
        lambda lab, f: f.numbers["dtype"] == "float16",
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
    "one head's softmax too sharp": Planted(
        C.SOFTMAX_SCALE, lambda lab: lab.field("attn.context", one_head(lab, context(lab, math.sqrt(2)))),
        lambda lab, f: f.slice.heads == (1,) and abs(f.numbers["factor"] / math.sqrt(2) - 1) < 0.03,
    ),
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
    "one row of another expert's weight": Planted(
        C.WRONG_INPUT, row_of_another_expert, lambda lab, f: f.slice.experts == (1,)
        and f.numbers["weight_of_expert"] == {"1": 0},
    ),
    "embeddings of the next id": Planted(
        C.WRONG_INPUT, embeddings_shifted, lambda lab, f: f.numbers["offset"] == 1
    ),
    "older buffer": Planted(C.WRONG_INPUT, older),
    "weights not renormalized": Planted(
        C.WEIGHTS_NOT_NORMALIZED, lambda lab: lab.field("moe.topk_weights", renormalized(lab))
    ),
    "near ties": Planted(C.ROUTER_NEAR_TIE, flipped_by_ties),
    "close, and no tie": Planted(C.ROUTER_WRONG_IDS, partial(flipped_by_ties, margin=1e-3)),
    "ids by coarse keys": Planted(C.ROUTER_WRONG_IDS, by_coarse_keys),
    "ids by coarser keys": Planted(C.ROUTER_WRONG_IDS, partial(by_coarse_keys, kept=3)),
    "ids of other logits": Planted(C.ROUTER_WRONG_IDS, ids_of_another),
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, planted in T.items() for size in planted.sizes])
def test_the_planted_cause_comes_first(lab, name, size):
    check_cause(lab(size), T[name])
