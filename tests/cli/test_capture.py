"""`parity capture`, `trace` and `stages`: what is written is what was asked for, and costs what was announced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.estimate import estimate_capture, folder_bytes, plan_steps
from parity.preview import preview_runner
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.trace import open_trace

ROOT = Path(__file__).resolve().parents[2]
BF16 = ROOT / "fixtures/models/moe-tiny"
FP8 = ROOT / "fixtures/models/moe-tiny-fp8"
PROMPT = ROOT / "fixtures/prompts/short-threading-96.json"
Parity = Callable[..., Any]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trace: three layers' experts and the logits of some positions."""
    out = tmp_path_factory.mktemp("trace") / "a"
    plan = CapturePlan(layers=(0, 2, 3), stages=("moe.*", "logits"), tokens="10:40", out=out)
    ids = tuple(json.loads(PROMPT.read_text())["ids"])
    open_runner(f"recipe:{BF16}").forward([Request("p", ids)], capture=plan)
    return out


def test_a_capture_holds_what_was_asked_for(tmp_path: Path, parity: Parity):
    out = tmp_path / "new" / "trace"
    ended = parity(
        "capture", f"hf:{BF16}", "--prompt", PROMPT, "--out", out, "--layers", "0,2-3", "--stages", "moe.*,attn.q",
        "--tokens", "10:40", "--dtype", "bfloat16", "--decode", "2", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = open_trace(out)
    assert {capture.layer for capture in found.captures} == {0, 2, 3}
    assert {capture.stage for capture in found.captures} >= {"moe.gate", "attn.q"}
    assert {int(p) for capture in found.captures for p in capture.rows.position} == set(range(10, 40))
    assert found.run.recipe.name == "bf16"
    assert found.run.flags["decode"] == 2
    assert ended.json["captures"] == len(found.captures)
    assert ended.json["bytes"] == folder_bytes(out)
    again = parity("capture", f"hf:{BF16}", "--prompt", PROMPT, "--out", out)
    assert again.code == 2
    assert "a folder without a capture" in again.said


CASES: list[tuple[str, dict[str, Any], CapturePlan, Schedule]] = [
    (f"hf:{BF16}", {}, CapturePlan(), Schedule()),
    (f"hf:{BF16}", {"dtype": "bfloat16"}, CapturePlan(stages=("moe.topk_*",)), Schedule()),
    (f"hf:{BF16}", {}, CapturePlan(tokens="last"), Schedule(decode=7)),
    (f"hf:{BF16}", {}, CapturePlan(layers=(1,), stages=("moe.gate",), tokens="3:5"), Schedule()),
    (f"recipe:{FP8}", {}, CapturePlan(), Schedule(chunk=40, decode=5)),
    (f"recipe:{BF16}", {"recipe": "fp64"}, CapturePlan(stages=("attn.*", "logits")), Schedule(chunk=20)),
    (f"recipe:{BF16}", {}, CapturePlan(mode="stats"), Schedule(decode=3)),
    (f"hf:{BF16}", {}, CapturePlan(mode="stats", stages=("moe.*",)), Schedule()),
    (f"triton:{FP8}", {}, CapturePlan(stages=("moe.*", "attn.context")), Schedule(chunk=40)),
]


@pytest.mark.parametrize(("spec", "options", "plan", "schedule"), CASES)
def test_a_trace_is_as_large_as_announced(
    spec: str, options: dict[str, Any], plan: CapturePlan, schedule: Schedule, tmp_path: Path
):
    from parity.capture import capture_run

    request = Request("p", tuple(json.loads(PROMPT.read_text())["ids"])[:83])
    plan = CapturePlan(plan.layers, plan.stages, plan.tokens, plan.mode, tmp_path / "t")
    said = estimate_capture(preview_runner(spec, **options), request, schedule=schedule, plan=plan, rate=1e12)
    done = capture_run(spec, request, schedule=schedule, plan=plan, **options)
    assert said.trace_bytes == pytest.approx(done.bytes, rel=0.10)
    assert said.sites == done.sites
    if plan.mode == "tensor":
        assert said.captures == done.captures
        found = open_trace(tmp_path / "t")
        assert said.payload_bytes == sum(found.stored(capture).bytes for capture in found.captures)


def test_a_dry_run_loads_nothing_and_writes_nothing(tmp_path: Path, parity: Parity, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parity_oracles.hf.runner.build_model", lambda *_, **__: pytest.fail("a model was built"))
    monkeypatch.setattr("parity_oracles.checkpoint.checkpoint.Checkpoint.weight", lambda *_: pytest.fail("a weight"))
    asked = ("capture", f"hf:{BF16}", "--prompt", PROMPT, "--out", tmp_path / "t", "--dry-run")
    ended = parity(*asked, "--json")
    assert ended.code == 0, ended.err
    said = ended.json["estimate"]
    assert said["weight_bytes"] == 4 * 12_015_488  # the parameters of the fixture's card, in fp32
    assert said["memory_bytes"] > said["weight_bytes"]
    assert said["seconds"] > 0
    assert "operations" in said["model"]
    assert "Estimates" in parity(*asked).out
    assert not (tmp_path / "t").exists()


def test_operations_are_counted_as_the_formula_says():
    """By hand, for one layer of the fixture: 2 x 96 x (4 x 766,464 + 1,572,864) + 4 x 4 x 384 x (96 x 97 / 2)."""
    from parity.estimate import count_operations

    steps = list(plan_steps(96, Schedule()))
    assert count_operations(preview_runner(f"hf:{BF16}"), steps) == 2 * 96 * (4 * 766_464 + 1_572_864) + 28_606_464
    assert count_operations(preview_runner(f"hf:{BF16}"), list(plan_steps(96, Schedule(chunk=7, decode=5)))) == (
        count_operations(preview_runner(f"hf:{BF16}"), steps)
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--ids", "1,2.5"), "--ids"),
        (("--ids", "1,,2"), "--ids"),
        (("--ids", "5000"), "among them 5000 at position 0"),
        (("--ids", "1", "--prompt", "x.json"), "both"),
        ((), "neither"),
        (("--prompt", "missing.json"), "missing.json"),
        (("--prompt", "missing.txt"), "missing.txt"),
        (("--ids", "1", "--layers", "9"), "layers from 0 to 3"),
        (("--ids", "1", "--layers", "0,,1"), "--layers"),
        (("--ids", "1", "--layers", "0-99999999999"), "--layers"),
        (("--ids", "1", "--stages", "moe.gat"), "Did you mean moe.gate"),
        (("--ids", "1", "--tokens", "5:2"), "5:2"),
        (("--ids", "1", "--tokens", "5:"), "fits no position"),
        (("--ids", "1", "--mode", "some"), "tensor or stats"),
        (("--ids", "1", "-o", "order"), "NAME=VALUE"),
        (("--ids", "1", "-o", "order=x"), "a whole number"),
        (("--ids", "1", "-o", "colour=red"), "colour"),
        (("--ids", "1", "--decode", "1"), "more than 1"),
        (("--ids", "1", "--chunk", "0"), "chunk=0"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry"])
def test_what_cannot_be_captured_is_refused(
    more: tuple[str, ...], said: str, dry: tuple[str, ...], tmp_path: Path, parity: Parity
):
    ended = parity("capture", f"recipe:{BF16}", "--out", tmp_path / "t", *more, *dry)
    assert ended.code == 2
    assert said in ended.said
    assert "internal error" not in ended.said


@pytest.mark.parametrize("content", ["[1, 2]", '{"ids": "12"}', '{"ids": [1, 2.0]}', '{"ids": [true]}', "{", "{}"])
def test_a_prompt_file_that_is_none_is_refused(content: str, tmp_path: Path, parity: Parity):
    path = tmp_path / "p.json"
    path.write_text(content)
    ended = parity("capture", f"recipe:{BF16}", "--out", tmp_path / "t", "--prompt", path, "--json")
    assert ended.code == 2
    assert ended.json["error"]["kind"] == "UsageError"


def test_a_text_becomes_ids_of_the_models_own_tokenizer(tmp_path: Path, parity: Parity):
    path = tmp_path / "p.txt"
    path.write_text(json.loads(PROMPT.read_text())["text"])
    asked = ("--out", tmp_path / "t", "--stages", "logits", "--prompt", path)
    assert parity("capture", f"recipe:{BF16}", *asked).code == 0
    (ids,) = open_trace(tmp_path / "t").run.requests
    assert list(ids) == json.loads(PROMPT.read_text())["ids"]
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(BF16 / name)
    refused = parity("capture", f"recipe:{bare}", "--out", tmp_path / "u", "--prompt", path)
    assert refused.code == 2
    assert "tokenizer" in refused.said


def test_a_trace_is_listed_and_measured(trace: Path, parity: Parity):
    listed = parity("trace", "ls", trace, "--stage", "moe.gate", "--json").json
    assert [item["name"] for item in listed["captures"]] == ["L00.moe.gate", "L02.moe.gate", "L03.moe.gate"]
    assert "L02.moe.gate" in parity("trace", "ls", trace, "--layer", 2).out
    measured = parity("trace", "stats", trace, "--layer", 0, "--stage", "moe.gate", "--json").json["captures"]
    (capture,) = [c for c in open_trace(trace).captures if c.name == "L00.moe.gate"]
    assert measured[0]["max"] == float(open_trace(trace).tensor(capture).max())
    assert "L00.moe.gate" in parity("trace", "stats", trace, "--layer", 0).out
    assert parity("trace", "ls", trace, "--stage", "moe.gat").code == 2
    assert parity("trace", "stats", trace / "none").code == 2


def test_an_intact_trace_verifies_and_a_damaged_one_does_not(trace: Path, tmp_path: Path, parity: Parity):
    assert parity("trace", "verify", trace).code == 0
    copy = Path(shutil.copytree(trace, tmp_path / "copy"))
    shard = next(copy.glob("shard-*"))
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    ended = parity("trace", "verify", copy, "--json")
    assert ended.code == 2
    assert ended.json["damaged"]
    assert parity("trace", "verify", tmp_path / "none").code == 2


def test_traces_are_equal_differ_or_cannot_be_read(trace: Path, tmp_path: Path, parity: Parity):
    copy = Path(shutil.copytree(trace, tmp_path / "copy"))
    assert parity("trace", "diff", trace, copy).code == 0
    other = tmp_path / "other"
    ids = list(json.loads(PROMPT.read_text())["ids"])
    ids[12] += 1
    plan = CapturePlan(layers=(0, 2, 3), stages=("moe.*", "logits"), tokens="10:40", out=other)
    open_runner(f"recipe:{BF16}").forward([Request("p", ids)], capture=plan)  # type: ignore[arg-type]
    ended = parity("trace", "diff", trace, other, "--json")
    assert ended.code == 1
    assert ended.json["same_payloads"] is False
    assert "payload" in parity("trace", "diff", trace, other).out
    assert parity("trace", "diff", trace, tmp_path / "none").code == 2


def test_stages_are_listed_with_their_sizes(parity: Parity):
    listing = parity("stages", "--runner", "hf", "--model", BF16, "--json").json
    assert listing["sizes"] == {"D": 384, "H": 6, "K": 64, "G": 2, "E": 12, "S": 2, "F": 160, "V": 4096}
    gate = next(entry for entry in listing["stages"] if entry["stage"] == "moe.gate")
    assert gate["axes"] == ["R", "F"]
    assert gate["observable"] is True
    assert gate["inputs"] == ["mlp.norm", "moe.topk_ids"]
    assert parity("stages", "--family", "qwen3_moe", "--json").json["sizes"] == {}
    assert "moe.gate" in parity("stages", "-r", "triton", "-m", FP8).out


def test_what_a_runner_cannot_show_is_said(monkeypatch: pytest.MonkeyPatch, parity: Parity):
    from dataclasses import replace

    import parity.preview as module

    whole = preview_runner(f"hf:{BF16}")
    blind = replace(whole, stages=tuple(stage for stage in whole.stages if stage != "moe.act"))
    monkeypatch.setattr(module, "preview_runner", lambda *_, **__: blind)
    listing = parity("stages", "-r", "hf", "-m", BF16, "--json").json
    assert [entry["stage"] for entry in listing["stages"] if not entry["observable"]] == ["moe.act"]


@pytest.mark.parametrize(
    "more", [(), ("-r", "hf"), ("-m", "x"), ("-r", "hf", "-m", "x", "--family", "qwen3_moe"), ("--family", "none")]
)
def test_stages_of_nothing_are_refused(more: tuple[str, ...], parity: Parity):
    assert parity("stages", *more).code == 2
