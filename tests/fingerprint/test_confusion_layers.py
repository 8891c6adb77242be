"""Is each planted pattern of attention, caches, gates, weights and launches read as its own cause, at three sizes?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parity.fingerprint import CAUSES, DETECTORS
from parity.fingerprint import causes as C
from tests.fingerprint.plants import (
    Planted,
    activated,
    added_with,
    beyond_the_limit,
    cached,
    check_cause,
    chunk,
    columns_moved,
    columns_shifted,
    edited,
    few_rows_moved,
    first_keys,
    from_100,
    in_e4m3,
    keys_late,
    launches,
    merged,
    middle,
    other_weights,
    paged,
    phases,
    random_like,
    routed_by,
    router_rows_moved,
    rows_late,
    seeing,
    slot_lost,
    tile_but_few_rows,
    values_of_head,
    window,
)


def page_of(lab):
    """A large page that the lab's tokens hold three of."""
    return 64 if lab.size.T > 200 else 32


T = {
    "queries in another rope's order": Planted(
        C.ROPE_PAIRING, edited("attn.q", lambda lab, v: v.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)),
        lambda lab, f: f.numbers["pairs"] == "side by side",
    ),
    "keys in another rope's order": Planted(
        C.ROPE_PAIRING, edited("attn.k", lambda lab, v: v.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)),
        lambda lab, f: f.numbers["pairs"] == "in halves",
    ),
    "window": Planted(
        C.ATTENTION_REACH, lambda lab: lab.field("attn.context", seeing(lab, window(lab, lab.size.T // 3))),
        lambda lab, f: abs(f.numbers["size"] / (lab.size.T // 3) - 1) < 0.2,
    ),
    "window from a chunk on": Planted(
        C.ATTENTION_REACH,
        lambda lab: replace(
            lab.field("attn.context", seeing(lab, window(lab, 16) & (torch.arange(lab.size.T) >= chunk(lab))[:, None])),
            **launches(lab),
        ),
        lambda lab, f: f.numbers["from_query"] == chunk(lab) and abs(f.numbers["size"] - 16) <= 2,
    ),
    "first keys not read": Planted(
        C.ATTENTION_REACH, lambda lab: lab.field("attn.context", seeing(lab, first_keys(lab, 32))),
        lambda lab, f: "the first" in f.numbers["mask"] and abs(f.numbers["size"] - 32) <= 8,
    ),
    "own key not read": Planted(
        C.ATTENTION_REACH, lambda lab: lab.field("attn.context", seeing(lab, torch.eye(lab.size.T).bool().index_fill(
            0, torch.tensor(0), False))),
    ),
    "keys and values one slot late": Planted(
        C.KV_SLOTS, lambda lab: lab.field("attn.context", cached(lab, 1, "kv")), lambda lab, f: f.numbers["by"] == 1,
    ),
    "values two slots early": Planted(
        C.KV_SLOTS, lambda lab: lab.field("attn.context", cached(lab, -2, "v")),
        lambda lab, f: (f.numbers["by"], f.numbers["shifted"]) == (-2, "values"),
    ),
    "keys late from some slot on": Planted(
        C.KV_SLOTS, lambda lab: lab.field("attn.context", cached(lab, 1, "k", from_100(lab))),
        lambda lab, f: abs(f.numbers["from_slot"] - from_100(lab)) <= 8,
    ),
    "a page of 16 repeats the one before": Planted(
        C.KV_SLOTS, lambda lab: lab.field("attn.context", paged(lab, 16, "repeated")),
        lambda lab, f: (f.numbers["pages"], f.numbers["page"]) == ("repeated", 16)
        and f.slice.positions == (middle(lab, 16), lab.size.T),
    ),
    "a page of 32 pushes the others on": Planted(
        C.KV_SLOTS, lambda lab: lab.field("attn.context", paged(lab, 32, "late")),
        lambda lab, f: f.numbers["page"] == 32,
    ),
    "two pages exchanged": Planted(
        C.KV_SLOTS, lambda lab: lab.field("attn.context", paged(lab, page_of(lab), "exchanged")),
        lambda lab, f: f.numbers["pages"] == "exchanged" and (f.slice.positions or (0, lab.size.T))[1] < lab.size.T,
    ),
    "a page of zeros": Planted(
        C.ROWS_UNWRITTEN, lambda lab: lab.field("attn.context", paged(lab, 32, "zero")),
        lambda lab, f: f.numbers["pages"] == "zero",
    ),
    "splits of the keys averaged": Planted(
        C.CHUNK_BOUNDARY, lambda lab: lab.field("attn.context", merged(lab, page_of(lab))),
        lambda lab, f: f.numbers["keys_of_a_split"] == page_of(lab)
        and f.slice.positions == (page_of(lab), lab.size.T),
    ),
    "splits of the keys averaged in decode": Planted(
        C.PHASE_ONLY, lambda lab: replace(
            lab.field("attn.context", merged(lab, 32, lab.size.T - 12)), **phases(lab)),
        lambda lab, f: f.numbers["keys_of_a_split"] == 32 and f.slice.positions == (lab.size.T - 12, lab.size.T),
    ),
    "key heads interleaved": Planted(
        C.HEADS_PERMUTED, lambda lab: lab.field("attn.context", seeing(
            lab, heads=[h % lab.size.G for h in range(lab.size.H)])),
    ),
    "one key head for all": Planted(
        C.HEADS_ALIASED, lambda lab: lab.field("attn.context", seeing(lab, heads=[1] * lab.size.H)),
    ),
    "cache in E4M3": Planted(
        C.E4M3_GRID, lambda lab: lab.field("attn.context", in_e4m3(lab).bfloat16(), noisy=False),
        lambda lab, f: f.numbers["scale"] == "1",
    ),
    "no silu": Planted(C.GATE_TRANSFORM, lambda lab: lab.field("moe.act", activated(lab, lambda x: x)),
                       lambda lab, f: f.numbers["function"] == "nothing"),
    "sigmoid for silu": Planted(C.GATE_TRANSFORM, lambda lab: lab.field("moe.act", activated(lab, torch.sigmoid))),
    "no gate": Planted(C.GATE_TRANSFORM, lambda lab: lab.field("moe.act", lab.tensors["moe.up"])),
    "silu of up": Planted(
        C.GATE_UP_SWAPPED, lambda lab: lab.field("moe.act", activated(lab, torch.nn.functional.silu, swapped=True)),
    ),
    "bias missing": Planted(
        C.MISSING_BIAS, edited("attn.k", lambda lab, v: v + random_like(v)[0]), lambda lab, f: f.numbers["per"] == "row"
    ),
    "experts' biases missing": Planted(
        C.MISSING_BIAS, edited("moe.down", lambda lab, v: v + random_like(v.flatten(0, 1))[lab.tensors[
            "moe.topk_ids"].long()]),
    ),
    "next expert's weights": Planted(
        C.WRONG_INPUT, lambda lab: lab.field("moe.down", other_weights(lab, [*range(1, lab.size.E), 0]),
                                             related={"weight": lab.weights["moe.down"]}),
        lambda lab, f: f.numbers["weight_of_expert"]["0"] == 1,
    ),
    "one expert with another's weights": Planted(
        C.WRONG_INPUT, lambda lab: lab.field("moe.down", other_weights(lab, [2, *range(1, lab.size.E)]),
                                             related={"weight": lab.weights["moe.down"]}),
        lambda lab, f: f.slice.experts == (0,),
    ),
    "two columns exchanged": Planted(
        C.COLUMN_SEGMENT, lambda lab: lab.field("moe.down", columns_moved(lab, 0)),
        lambda lab, f: f.numbers["source_of_column"] == {"3": 29, "29": 3},
    ),
    "two rows of the router exchanged": Planted(
        C.COLUMN_SEGMENT, lambda lab: lab.field("moe.router_logits", router_rows_moved(lab)),
        lambda lab, f: f.numbers["source_of_column"] == {"1": 4, "4": 1},
        sizes=(1, 2),  # of five experts two are no small part
    ),
    "a tile of an expert just past it": Planted(C.TILE_AMPLIFIED, lambda lab: tile_but_few_rows(lab, 3)),
    "one row past the tile": Planted(C.TILE_AMPLIFIED, lambda lab: tile_but_few_rows(lab, 1)),
    "columns of one expert shifted by one": Planted(
        C.COLUMNS_PERMUTED, lambda lab: lab.field("moe.up", columns_shifted(lab, 0, 1)),
        lambda lab, f: (f.slice.experts, f.numbers["shift"]) == ((0,), lab.size.F - 1),
    ),
    "values of key/value head 0 for all": Planted(
        C.HEADS_ALIASED, lambda lab: lab.field("attn.context", values_of_head(lab, 0)),
        lambda lab, f: f.numbers["read_there"] == "values",
    ),
    "second expert not added from 100 on": Planted(
        C.MISSING_EXPERT, lambda lab: lab.field("moe.experts", slot_lost(lab, 1, from_100(lab))),
        lambda lab, f: (f.numbers["slots"], (f.slice.positions or (None,))[0]) == ([1], from_100(lab)),
    ),
    "first expert never added": Planted(
        C.MISSING_EXPERT, lambda lab: lab.field("moe.experts", slot_lost(lab, 0, 0)),
        lambda lab, f: (f.numbers["slots"], f.slice.positions) == ([0], None),
    ),
    "weights of the token before from 100 on": Planted(
        C.WRONG_INPUT, lambda lab: lab.field("moe.experts", added_with(lab, lambda w: w.roll(1, 0), from_100(lab))),
        lambda lab, f: (f.numbers["weights"], (f.slice.positions or (None,))[0])
        == ("the weights of the token 1 before", from_100(lab)),
    ),
    "weights of the slots exchanged": Planted(
        C.WRONG_INPUT, lambda lab: lab.field("moe.experts", added_with(lab, lambda w: w.flip(1))),
        lambda lab, f: "another order of slots" in f.numbers["weights"] and f.slice.positions is None,
    ),
    "five expert rows in a circle": Planted(C.ROWS_PERMUTED, lambda lab: lab.field("moe.gate", few_rows_moved(lab))),
    "keys rotated further from 100 on": Planted(
        C.ROPE_POSITION, lambda lab: lab.field("attn.k_rope", keys_late(lab)),
        lambda lab, f: list(f.numbers["offset_from"].values()) == [1],
    ),
    "keys the row before from 100 on": Planted(
        C.ROWS_SHIFTED, lambda lab: lab.field("attn.k", rows_late(lab)),
        lambda lab, f: (f.numbers["shift"], f.numbers["first_position"]) == (1, from_100(lab)),
    ),
    "rope the other way round": Planted(
        C.ROPE_PAIRING, lambda lab: lab.field("attn.q_rope", lab.rotated(
            lab.tensors["attn.q_norm"], -torch.arange(lab.size.T), lab.frequencies)),
    ),
    "grid limit": Planted(C.LAUNCH_LIMIT, beyond_the_limit(65600, 65535), sizes=(0,)),
    "grid limit, all lost": Planted(C.LAUNCH_LIMIT, beyond_the_limit(65536, 0), sizes=(0,)),
    "16-bit index": Planted(C.LAUNCH_LIMIT, beyond_the_limit(66000, 65536), sizes=(0,)),
    "rows zero, not at the limit": Planted(C.ROWS_UNWRITTEN, beyond_the_limit(66000, 65000), sizes=(0,)),
    "router temperature": Planted(
        C.SOFTMAX_SCALE, lambda lab: lab.field("moe.topk_weights", (lab.tensors["moe.router_logits"].gather(
            1, lab.tensors["moe.topk_ids"].long()) / 1.7).softmax(1)),
    ),
    "router by sigmoid, renormalized": Planted(
        C.GATE_TRANSFORM, lambda lab: lab.field("moe.topk_weights", routed_by(lab, torch.sigmoid)),
        lambda lab, f: f.numbers["weights_are"] == "sigmoid of each logit, renormalized",
    ),
    "router by sigmoid": Planted(
        C.GATE_TRANSFORM, lambda lab: lab.field("moe.topk_weights", routed_by(lab, torch.sigmoid, whole=False)),
        lambda lab, f: f.numbers["weights_are"] == "sigmoid of each logit",
    ),
    "norm weight without its 1": Planted(
        C.CHANNEL_RATIO, lambda lab: lab.field("mlp.norm", lab.tensors["mlp.norm"] * (
            1 - 1 / lab.weights["mlp.norm"])),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, planted in T.items() for size in planted.sizes])
def test_the_planted_cause_comes_first(lab, name, size):
    check_cause(lab(size), T[name])


def test_every_detector_is_met_by_a_plant():
    """A detector that no plant reaches is not tested."""
    from tests.fingerprint.test_confusion import T as others

    planted = {one.cause for one in (*T.values(), *others.values())}
    assert planted <= set(CAUSES)
    assert len(planted) >= len(DETECTORS)
