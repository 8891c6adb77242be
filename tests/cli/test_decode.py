"""`parity decode` and `parity falsify`: what they print, refuse, and end with."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_two_recipes_decode_alike(parity: Command, fp8_model: Path):
    asked = ("decode", "--sut", f"recipe:{fp8_model}", "--oracle", f"recipe:{fp8_model}", "--oracle-option",
             "recipe=fp32", "--ids", "3,1,4,1,5,9,2,6", "--tokens", 2)  # fmt: skip
    done = parity(*asked, "--json")
    assert done.code == 0, done.err
    assert done.json["verdict"] in ("same", "near_tie")
    assert done.json["noise"]["source"] == "emulation"
    (token, *_) = done.json["sut_ids"]
    obeyed = parity(*asked, "--banned", token, "--emulation", "none", "--json")
    assert token not in obeyed.json["sut_ids"]
    assert obeyed.json["sampler"]["outcome"] == "as_asked"


def test_the_example_of_the_page_runs(parity: Command, monkeypatch: pytest.MonkeyPatch):
    root = Path(__file__).resolve().parents[2]
    (line,) = re.findall(r"^\$ parity (.*)$", (root / "docs/decoding.md").read_text(), re.MULTILINE)
    monkeypatch.chdir(root)
    done = parity(*shlex.split(line), "--json")
    assert done.code == 0, done.err
    assert done.json["noise"]["source"] == "floor"
    assert done.json["sampler"]["asked"]["repetition_penalty"] == 1.1


def test_a_sweep_that_finds_nothing_ends_with_0(parity: Command, fp8_model: Path):
    asked = ("decode", "--sut", f"recipe:{fp8_model}", "--oracle", f"recipe:{fp8_model}", "--ids", "3,1,4,1")
    done = parity(*asked, "--tokens", 1, "--emulation", "none", "--sweep")
    assert done.code == 0, done.err
    assert "No divergence at any of the lengths 2, 4" in done.out


def test_one_pair_is_refused_and_ten_may_differ(parity: Command, tmp_path: Path):
    file = tmp_path / "pairs.json"
    for count, verdict, code in ((1, "refused", 2), (10, "differs", 1)):
        file.write_text(json.dumps({"oracle": [0] * count, "sut": [1] * count}))
        done = parity("decode", "--pairs", file, "--json")
        assert (done.json["verdict"], done.code) == (verdict, code)
    file.write_text("[]")
    assert parity("decode", "--pairs", file).code == 2


def test_misuse_is_refused(parity: Command, fp8_model: Path):
    spec = f"recipe:{fp8_model}"
    assert "no SUT" in parity("decode", "--oracle", spec, "--ids", "1,2").said
    assert "either --prompt FILE or --ids" in parity("decode", "--sut", spec, "--oracle", spec).said


def test_the_residual_claim_is_refuted(parity: Command, fp8_model: Path):
    done = parity("falsify", "residual-scale", "--runner", f"recipe:{fp8_model}", "--ids", "0-9", "--claim", "it grew")
    assert done.code == 0, done.err
    assert "| claim | it grew |" in done.out
    assert "Refuted" in done.out


def test_sampled_decoding_is_judged_over_seeds_and_refused_for_one(parity: Command, fp8_model: Path):
    spec = f"recipe:{fp8_model}"
    asked = ("decode", "--sut", spec, "--oracle", spec, "--ids", "3,1,4,1", "--tokens", 2, "--temperature", 40)
    one = parity(*asked, "--seeds", 1, "--json")
    assert (one.code, one.json["verdict"]) == (2, "refused")
    done = parity(*asked, "--seeds", 10, "--top-k", 30, "--json")
    assert done.code == 0, done.err
    assert done.json["verdict"] == "no_difference_seen"
    assert done.json["sampler"]["asked"]["top_k"] == 30
    low, high = done.json["sampler"]["estimates"]["temperature"][1:]
    assert low < 40 < high
    assert "with greedy decoding" in parity(*asked, "--sweep").said
    assert "top_p=0" in parity(*asked, "--top-p", 0).said
