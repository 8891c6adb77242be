"""Is every stage map whole, does it fit its engine's modules, and is each defect of a map named?"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import ConfigError, ParityError, ProbeError
from parity.records import Rows
from parity.stages import FAMILIES
from parity_oracles.stagemap import StageMap, known_maps, load_map, match_map, sizes_of, slot_rows
from parity_oracles.stagemap.reading import parse_map, read_map

MAPS = known_maps()


def fused() -> dict[str, Any]:
    """A map with all the format has: a fused projection, a pair, a node by occurrence, an object for all layers."""
    layer = "*.layers.{layer}"

    def one(name: str, stages: Any, axes: Any, **more: Any) -> dict[str, Any]:
        return {"name": name, "stages": stages, "axes": axes, **more}

    return {
        "engine": "toy",
        "family": "llama",
        "tensor": [
            one("*.embed", "embed.out", "T D"),
            one(f"{layer}.norm1", "attn.norm", "T D"),
            one(f"{layer}.qkv", ["attn.q", "attn.k", "attn.v"], ["T HK", "T GK", "T GK"]),
            one("*.rope", "attn.q_rope", "T HK", occurrence="layer"),
            one("*.rope", "attn.k_rope", "T GK", occurrence="layer", result=1),
            one("core-{layer}", "attn.context", "H T K", take="op:FLASH", occurrence=1),
            one(f"{layer}.o", "attn.out", "T D"),
            one(f"{layer}.norm2", "mlp.norm", "T D"),
            one(f"{layer}.norm2", "resid.mid", "T D", result=1),
            one(f"{layer}.gate_up", ["mlp.gate", "mlp.up"], ["T F", "T F"]),
            one(f"{layer}.down", "mlp.act", "T F", take="input"),
            one(f"{layer}.down", "mlp.down", "T D"),
            one(layer, "resid.out", "T D", result=[0, 1], rounds="float32"),
            one("head", "logits", "T V"),
        ],
        "unobservable": {"final_norm": "the head's kernel computes it"},
    }


OFFERED = {
    "m.embed": 1, "m.rope": 3, "head": 1, "core-0": 2, "core-1": 2, "core-2": 2,
    **{f"m.layers.{n}{part}": 1 for n in range(3)
       for part in ("", ".norm1", ".qkv", ".o", ".norm2", ".gate_up", ".down")},
}  # fmt: skip
SIZES = {"D": 10, "H": 3, "G": 1, "K": 4, "F": 7, "V": 11}


def test_there_is_a_map_for_each_family_of_torch() -> None:
    assert {family for engine, family in MAPS if engine == "torch"} == set(FAMILIES)
    with pytest.raises(ConfigError, match="llama, qwen3, qwen3_moe; found 'gemma4'"):
        load_map("torch", "gemma4")


@pytest.mark.parametrize(("engine", "family"), MAPS)
def test_every_map_is_whole(engine: str, family: str) -> None:
    """Reading checks it: each stage once in every layer, or a reason. Its file says what it is for."""
    stage_map = load_map(engine, family)
    assert (stage_map.engine, stage_map.family) == (engine, family)
    sites = {stage.name for _, stage in FAMILIES[family].sites(1)}
    assert {stage for _, stage in stage_map.sites(3)} == sites - set(stage_map.unobservable)


@pytest.mark.parametrize(("engine", "family"), MAPS)
def test_any_source_left_out_or_doubled_is_named(engine: str, family: str) -> None:
    stage_map = load_map(engine, family)
    for n, tensor in enumerate(stage_map.tensors):
        for tensors in ((*stage_map.tensors[:n], *stage_map.tensors[n + 1 :]), (*stage_map.tensors, tensor)):
            with pytest.raises(ConfigError, match=tensor.parts[0].stage.replace(".", r"\.")):
                StageMap(engine, family, tensors, stage_map.unobservable)


def test_a_map_fits_its_engine() -> None:
    stage_map = parse_map(fused())
    found = match_map(stage_map, OFFERED, layers=3)
    assert found.names[0] == "m.embed"
    assert [s.stages for s in found.at("m.rope", occurrence=2)] == [("attn.q_rope",), ("attn.k_rope",)]
    assert [s.layer for s in found.at("m.rope")] == [0, 1, 2, 0, 1, 2]
    assert found.at("core-1", take="op:FLASH", occurrence=1)[0].layer == 1
    assert found.at("core-1", take="output") == ()
    # What counts are not known is held against the run, not against a guess.
    assert match_map(stage_map, list(OFFERED), layers=3) == found
    found.check_arrived(found.sources)
    assert len(stage_map.sites(3)) == 2 + 3 * 15  # final_norm is not observed


def change(at: int, **words: Any) -> Any:
    def changed(content: dict[str, Any]) -> None:
        content["tensor"][at] |= words

    return changed


def extra(content: dict[str, Any], **words: Any) -> None:
    content["tensor"].append(words)


BROKEN = {
    "no such stage": (change(1, stages="attn.nrm"), r"toy-llama.*a stage of family llama; found 'attn.nrm'"),
    "another family's": (change(1, stages="moe.up"), "found 'moe.up'"),
    "axes of another": (change(6, axes="T HK"), r"axes of attn.out, \['T', 'D'\]"),
    "axes for one of three": (change(2, axes=["T HK"]), "3 stages and 1 axes"),
    "outside the layers": (change(0, name="m.{layer}.embed"), "embed.out"),
    "not in the layers": (change(1, name="m.norm1"), "attn.norm"),
    "a layer's hole": (change(1, layers="1:"), r"L00.attn.norm of 1 layers.*0 sources"),
    "overlap": (lambda c: extra(c, name="x-{layer}", stages="attn.norm", axes="T D", layers="-1:"), "2 sources"),
    "reason and source": (lambda c: c["unobservable"].update({"logits": "why"}), "1 sources and a reason"),
    "no reason": (lambda c: c["unobservable"].update(final_norm=" "), "each with a reason; found final_norm"),
    "unknown unobservable": (lambda c: c["unobservable"].update({"mlp.gated": "why"}), r"mlp\.gated"),
    "word": (change(1, stage="attn.norm"), "name, stages and axes"),
    "top": (lambda c: c.update(tensors=[]), "engine, family and tensor"),
    "occurrence": (change(1, occurrence=-1), 'a number from 0, or "layer"; found -1'),
    "result": (change(12, result=[0, 0]), r"several different ones; found \[0, 0\]"),
    "rounds": (change(1, rounds="float32"), "for a sum of results"),
    "layers": (change(1, layers="all"), "as a Python slice"),
    "family": (lambda c: c.update(family="llama9"), "llama9"),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_map_is_refused(defect: str) -> None:
    content, (spoil, message) = deepcopy(fused()), BROKEN[defect]
    spoil(content)
    with pytest.raises(ConfigError, match=message):
        parse_map(content)


def test_a_file_that_is_none(tmp_path: Any) -> None:
    (tmp_path / "map.toml").write_text("engine = ")
    with pytest.raises(ConfigError, match=r"map.toml: expected a stage map in TOML"):
        read_map(tmp_path / "map.toml")


UNMATCHED = {
    "renamed": (
        {"m.layers.1.o": None},
        {"m.layers.1.oo": 1},
        r"one \*.layers.1.o output for attn.out in the engine; found none; the nearest names are m.layers.1.oo,",
    ),
    "two names": ({}, {"n.layers.1.o": 1}, r"found 2: m.layers.1.o, n.layers.1.o"),
    "too few": ({}, {"m.rope": 2}, r"\*.rope output \(occurrence 2\) in the engine; found 2 of that name"),
    "one occurrence": ({}, {"core-2": 1}, r"core-2 op:FLASH \(occurrence 1\)"),
    "a layer too few": ({"m.layers.2.norm1": None}, {}, "layers.2.norm1"),
}


@pytest.mark.parametrize("defect", UNMATCHED)
def test_a_declared_source_that_is_not_in_the_engine_is_named(defect: str) -> None:
    gone, more, message = UNMATCHED[defect]
    offered = {name: count for name, count in {**OFFERED, **more}.items() if name not in gone}
    with pytest.raises(ProbeError, match=message):
        match_map(parse_map(fused()), offered, layers=3)


def test_a_tensor_taken_twice_is_named() -> None:
    content = fused()
    content["tensor"][8]["result"] = 0
    with pytest.raises(ProbeError, match=r"norm2 output, result 0, for mlp.norm and resid.mid"):
        match_map(parse_map(content), OFFERED, layers=3)
    # Also when two different spellings lead to one tensor.
    content = fused()
    content["tensor"][6]["name"] = "*.{layer}.down"
    with pytest.raises(ProbeError, match=r"result 0, for attn.out and mlp.down"):
        match_map(parse_map(content), OFFERED, layers=3)


def test_what_does_not_arrive_is_named() -> None:
    found = match_map(parse_map(fused()), OFFERED, layers=3)
    with pytest.raises(ProbeError, match=r"silent: \*.layers.0.o output \(attn.out\)"):
        found.check_arrived([s for s in found.sources if s.name != "m.layers.0.o"])
    with pytest.raises(ProbeError, match=r"twice: head output \(logits\)"):
        found.check_arrived([*found.sources, found.at("head")[0]])


def test_tensors_become_stages() -> None:
    found = match_map(parse_map(fused()), OFFERED, layers=3)
    tokens, draw = 5, torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    q, k, v = some(tokens, 3, 4), some(tokens, 1, 4), some(tokens, 1, 4)
    qkv = torch.cat([q.flatten(1), k.flatten(1), v.flatten(1)], -1)
    given = dict(found.at("m.layers.1.qkv")[0].deliver(qkv, SIZES))
    assert torch.equal(given["attn.q"], q)
    assert torch.equal(given["attn.k"], k)
    assert torch.equal(given["attn.v"], v)
    core = some(3, tokens, 4)
    assert torch.equal(found.at("core-0")[0].deliver(core, SIZES)[0][1], core.transpose(0, 1))
    pair = some(tokens, 10).bfloat16(), some(tokens, 10).bfloat16()
    joined = found.at("m.layers.2")[0].deliver((*pair, None), SIZES)[0][1]
    assert torch.equal(joined, (pair[0].float() + pair[1].float()).bfloat16())
    # Nothing to show is shown as nothing.
    assert found.at("m.layers.1.gate_up")[0].deliver(some(0, 14), SIZES)[1][1].shape == (0, 7)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("m.layers.0.qkv", torch.zeros(5, 21), r"qkv output: expected a last axis of 12 \+ 4 \+ 4; found shape"),
        ("m.layers.0.norm2", torch.zeros(5, 10), r"tensors at \[1\] of its results"),
        ("m.layers.0", (torch.zeros(5, 10), torch.zeros(4, 10)), "a pair of one shape"),
        ("m.layers.0.o", torch.zeros(5, 9), "for attn.out: expected D of size 10; found 9"),
        ("core-0", torch.zeros(4, 5, 3), "for attn.context: expected H of size 3; found 4"),
        ("m.layers.0.o", torch.zeros(1, 5, 10), "axes"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_not_what_the_map_says_is_refused(name: str, value: Any, message: str) -> None:
    source = match_map(parse_map(fused()), OFFERED, layers=3).at(name)[-1]
    with pytest.raises(ProbeError, match=message):
        source.deliver(value, SIZES)


def test_ids_are_whole_numbers_and_experts_rows_follow_them() -> None:
    found = match_map(load_map("torch", "qwen3_moe"), list(qwen3_moe_names(1)), layers=1)
    sizes = sizes_of({"hidden": 10, "heads": 3, "kv_heads": 1, "head_dim": 4, "experts": 6, "top_k": 2, "vocab": 11,
                      "expert_width": 7})  # fmt: skip
    assert sizes == {"D": 10, "H": 3, "G": 1, "K": 4, "E": 6, "S": 2, "V": 11, "F": 7}
    ids = torch.tensor([[3, 1], [0, 5], [2, 4]])
    source = next(s for s in found.sources if s.stages == ("moe.topk_ids",))
    shown = source.deliver((None, None, ids), sizes)[0][1]
    assert shown.dtype == torch.int32
    with pytest.raises(ProbeError, match="whole numbers"):
        source.deliver((None, None, ids.float()), sizes)
    both = torch.arange(6 * 14.0).view(6, 14)
    fused_rows = next(s for s in found.sources if s.stages == ("moe.gate", "moe.up"))
    gate, up = (tensor for _, tensor in fused_rows.deliver(both, sizes))
    assert torch.equal(gate, both[:, :7])
    assert torch.equal(up, both[:, 7:])
    rows = slot_rows(Rows(np.zeros(3, np.int32), np.array([7, 8, 9])), shown)
    assert rows.position.tolist() == [7, 7, 8, 8, 9, 9]
    assert rows.slot is not None
    assert rows.slot.tolist() == [0, 1] * 3
    assert rows.expert is not None
    assert rows.expert.tolist() == [3, 1, 0, 5, 2, 4]
    with pytest.raises(ParityError, match="of 3 token rows"):
        slot_rows(Rows(np.zeros(3, np.int32), np.array([7, 8, 9])), shown[:2])


def qwen3_moe_names(layers: int) -> list[str]:
    """Names of the modules of an HF model, from transformers itself."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("qwen3_moe", num_hidden_layers=layers, hidden_size=16, num_attention_heads=2,
                                  num_key_value_heads=1, head_dim=8, vocab_size=32, num_experts=4,
                                  moe_intermediate_size=8, num_experts_per_tok=2)  # fmt: skip
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    return [name for name, _ in model.named_modules()]


@pytest.mark.parametrize("family", FAMILIES)
def test_hfs_modules_are_where_the_maps_say(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, num_hidden_layers=3, hidden_size=16, num_attention_heads=2,
                                  num_key_value_heads=1, vocab_size=32, intermediate_size=8)  # fmt: skip
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    names = [name for name, _ in model.named_modules()]
    found = match_map(load_map("torch", family), names, layers=3)
    assert len(found.sources) == sum(1 for _ in load_map("torch", family).sources(3))
    with pytest.raises(ProbeError, match=r"layers\.2\."):
        match_map(load_map("torch", family), [name for name in names if ".layers.2." not in name], layers=3)
