"""llama.cpp as a runner: each stage where the map says, the same bits with a callback and without, grafts that hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import CheckpointError, ConfigError, ProbeError, RunnerError, UsageError
from parity.ladder.replay import Replay
from parity.preview import preview_runner
from parity.runner import CapturePlan, Graft, Request, Schedule
from parity.stages import FAMILIES
from parity_oracles.hf.runner import open_runner as open_hf
from parity_oracles.stagemap import load_map

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make engines-llama")
from tests.oracles.llama_cpp.conftest import REQUEST, SHORT

KINDS = [("f32", "f32", False), ("bf16", "f16", False), ("q8_0", "f16", True)]


@pytest.fixture(scope="module", params=["llama", "qwen3", "qwen3_moe"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(("dtype", "kv", "flash"), KINDS)
def test_capture_changes_no_bit_and_shows_every_stage(
    family: str, dtype: str, kv: str, flash: bool, open_engine: Callable[..., Any]
) -> None:
    engine = open_engine(family, dtype=dtype, kv=kv, flash_attn=flash)
    schedule = Schedule(chunk=16, decode=3)
    requests = [REQUEST, SHORT]
    trace = engine.forward(requests, capture=CapturePlan(), schedule=schedule)
    shown = torch.cat([trace.tensor(one) for one in trace.select(stage="logits")])
    assert torch.equal(shown, engine.logits(requests, schedule=schedule))
    assert {(c.layer, c.stage) for c in trace.captures} == {(at, s.name) for at, s in FAMILIES[family].sites(2)}
    steps = {(c.phase, c.step, c.chunk) for c in trace.captures}
    assert steps == {("prefill", 0, n) for n in range(3)} | {("decode", n, 0) for n in (1, 2, 3)}


@pytest.mark.parametrize("kv", ["f32", "f16"])
def test_each_stage_alone_is_the_recipes(family: str, kv: str, open_engine: Callable[..., Any], toys: Any) -> None:
    """Every stage within fp32 summation order of the emulation of ggml's recipe, from the engine's own inputs.

    Bounds: sums of at most 160 products, 2^-24 each, in any order, relative to a row that cancels little: 1e-5; the
    context besides rounds a probability to F16 the other way now and then, 2^-11 of one of 40: 1e-4.
    """
    engine = open_engine(family, dtype="bf16", kv=kv)
    trace = engine.forward([REQUEST, SHORT], capture=CapturePlan())
    hf = open_hf(str(toys[family]))
    summary = Replay(trace, hf, recipe=engine.describe().recipe.name).compare(floor=None)
    assert len(summary.comparisons) >= len(list(FAMILIES[family].sites(2)))
    for record in summary.comparisons:
        if record.stage == "moe.topk_ids":
            assert record.whole["overlap"] == record.whole["top_k"]
        else:
            assert record.whole["rel_l2"] < (1e-4 if record.stage == "attn.context" else 1e-5), record.name


def test_expert_rows_and_routes_are_those_of_the_router(open_engine: Callable[..., Any]) -> None:
    trace = open_engine("qwen3_moe").forward([REQUEST], capture=CapturePlan(), schedule=Schedule(chunk=11))
    for layer in range(2):
        for routes, gate in zip(
            trace.select(stage="moe.topk_ids", layer=layer), trace.select(stage="moe.gate", layer=layer), strict=True
        ):
            ids = trace.tensor(routes)
            assert ids.dtype == torch.int32
            assert gate.rows.expert is not None
            assert gate.rows.slot is not None
            np.testing.assert_array_equal(gate.rows.expert, ids.flatten().numpy())
            np.testing.assert_array_equal(gate.rows.slot, np.tile([0, 1], len(ids)))
            np.testing.assert_array_equal(gate.rows.position, np.repeat(routes.rows.position, 2))


def test_prefill_decode_and_chunks_agree(family: str, open_engine: Callable[..., Any]) -> None:
    engine = open_engine(family, kv="f32")
    whole = engine.logits([REQUEST])
    # The same fp32 arithmetic in other shapes of matrix product: a few 2^-24, amplified by two layers.
    for schedule in (Schedule(chunk=7), Schedule(decode=5)):
        other = engine.logits([REQUEST], schedule=schedule)
        assert float((other - whole).norm() / whole.norm()) < 1e-4


def test_a_long_prompt_is_cut_as_llama_cpp_cuts_it(open_engine: Callable[..., Any]) -> None:
    engine = open_engine("qwen3", ubatch=16)
    assert engine.describe().knobs == {"kv": ("f32",), "flash_attn": ("true",), "ubatch": ("32",)}
    trace = engine.forward([REQUEST], capture=CapturePlan(stages=("logits",)))
    assert [len(c.rows) for c in trace.captures] == [16, 16, 8]
    assert [c.chunk for c in trace.captures] == [0, 1, 2]
    assert trace.run.flags["chunk"] == 16


@pytest.mark.parametrize("stage", ["attn.q", "attn.k_rope", "attn.v", "attn.context", "resid.mid"])
def test_a_graft_reaches_the_logits_and_a_sham_changes_no_bit(
    family: str, stage: str, open_engine: Callable[..., Any]
) -> None:
    engine = open_engine(family)
    trace = engine.forward([REQUEST], capture=CapturePlan())
    one = trace.select(stage=stage, layer=0)[0]
    logits = trace.tensor(trace.select(stage="logits")[0])
    plan = CapturePlan(stages=("logits", stage))
    sham = engine.forward([REQUEST], capture=plan, graft=[Graft(0, stage, trace.tensor(one), one.rows)])
    assert torch.equal(sham.tensor(sham.select(stage="logits")[0]), logits)
    wanted = trace.tensor(one).clone()
    wanted[3] += 1
    row = one.rows.take(np.array([3]))
    real = engine.forward([REQUEST], capture=plan, graft=[Graft(0, stage, wanted[3:4], row)])
    assert torch.equal(real.tensor(real.select(stage=stage, layer=0)[0]), wanted)
    after = real.tensor(real.select(stage="logits")[0])
    assert torch.equal(after[:3], logits[:3])
    assert not torch.equal(after[3:], logits[3:])


def test_routes_can_be_grafted(open_engine: Callable[..., Any]) -> None:
    engine = open_engine("qwen3_moe")
    trace = engine.forward([REQUEST], capture=CapturePlan())
    routes = trace.select(stage="moe.topk_ids", layer=0)[0]
    other = (trace.tensor(routes) + 1) % 6
    moved = engine.forward([REQUEST], capture=CapturePlan(), graft=[Graft(0, "moe.topk_ids", other, routes.rows)])
    gate = moved.select(stage="moe.gate", layer=0)[0]
    assert gate.rows.expert is not None
    np.testing.assert_array_equal(gate.rows.expert, other.flatten().numpy())
    site = Replay(moved, open_hf(engine.model_name)).site(0, "moe.gate")  # the rows really went through those experts
    assert site.sut is not None
    assert site.oracle is not None
    difference = site.sut.tensor.double() - site.oracle.double().view_as(site.sut.tensor)
    assert float(difference.norm() / site.sut.tensor.double().norm()) < 1e-5


def test_it_writes_what_hf_writes(family: str, open_engine: Callable[..., Any], toys: Any) -> None:
    hf = open_hf(str(toys[family]))
    wanted = hf.generate(REQUEST, max_new_tokens=8).ids
    assert open_engine(family, kv="f32").generate(REQUEST, max_new_tokens=8).ids == wanted
    assert open_engine(family).generate(REQUEST, max_new_tokens=0).ids == ()


def test_captures_are_copies(open_engine: Callable[..., Any]) -> None:
    engine = open_engine("qwen3")
    first = engine.forward([REQUEST], capture=CapturePlan())
    kept = {c.number: first.tensor(c).clone() for c in first.captures}
    engine.forward([Request("c", REQUEST.ids[::-1])], capture=CapturePlan())
    assert all(torch.equal(first.tensor(c), kept[c.number]) for c in first.captures)


def test_what_it_says_of_itself(family: str, open_engine: Callable[..., Any], toys: Any) -> None:
    info = open_engine(family, dtype="bf16").describe()
    hf = open_hf(str(toys[family])).describe()
    assert dict(info.hyper) == dict(hf.hyper)
    assert info.lineage == hf.lineage
    assert info.recipe.name == "ggml_bf16_kv_f16"
    seen = preview_runner(f"llama_cpp:{toys[family]}", dtype="bf16")
    assert (seen.recipe, seen.stages) == (info.recipe.name, info.stages)


def test_a_file_opens_as_its_folder_does(open_engine: Callable[..., Any]) -> None:
    engine = open_engine("llama")
    file = open_engine(engine.file.path)
    assert torch.equal(file.logits([REQUEST]), engine.logits([REQUEST]))
    assert file.describe().lineage == engine.describe().lineage
    seen = preview_runner(f"llama_cpp:{engine.file.path}")
    assert (seen.layers, seen.vocab, seen.recipe) == (2, 211, "ggml_f32_kv_f16")


@pytest.mark.parametrize("wrong", [{"dtype": "q4"}, {"kv": "q8_0"}, {"threads": 0}, {"ubatch": 0}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any], open_engine: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        open_engine("qwen3", **wrong)


def test_what_it_cannot_is_refused(open_engine: Callable[..., Any], toys: Any, tmp_path: Path) -> None:
    engine = open_engine("qwen3")
    with pytest.raises(RunnerError, match="poison"):
        engine.forward([REQUEST], schedule=Schedule(poison=255))
    with pytest.raises(UsageError, match="chunk"):
        engine.forward([REQUEST], schedule=Schedule(chunk=0))
    other = tmp_path / "x.gguf"
    other.write_bytes(engine.file.path.read_bytes().replace(b"qwen3", b"qwen9"))
    with pytest.raises(ConfigError, match="architecture"):
        open_engine(other)


def test_a_file_cut_short_is_refused_with_the_engines_words(open_engine: Callable[..., Any], tmp_path: Path) -> None:
    whole = open_engine("qwen3").file.path.read_bytes()
    short = tmp_path / "short.gguf"
    short.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"short\.gguf"):
        open_engine(short)


@pytest.mark.parametrize(
    ("name", "take"), [("Qcur-{layer}", "op:CONT"), ("Zcur-{layer}", "op:MUL_MAT"), ("norm-{layer}", "op:RMS_NORM")]
)
def test_a_map_that_does_not_fit_the_graph_is_refused(name: str, take: str, open_engine: Callable[..., Any]) -> None:
    """Another operation, another name, and a name that several nodes have."""
    known = load_map("llama_cpp", "qwen3")
    tensors = tuple(
        replace(one, name=name, take=take) if one.parts[0].stage == "attn.q" else one for one in known.tensors
    )
    engine = open_engine("qwen3")
    engine.stage_map = replace(known, tensors=tensors)
    with pytest.raises(ProbeError, match=r"attn\.q"):
        engine.forward([REQUEST], capture=CapturePlan())


def test_an_error_in_a_callback_ends_the_run(open_engine: Callable[..., Any]) -> None:
    engine = open_engine("qwen3")
    bad = Graft(0, "attn.q", torch.zeros(1, 4, 8), engine.forward([REQUEST], capture=CapturePlan()).captures[0].rows)
    with pytest.raises(ProbeError, match=r"attn\.q"):
        engine.forward([REQUEST], graft=[bad])
    assert len(engine.logits([REQUEST])) == len(REQUEST.ids)  # and the engine goes on
