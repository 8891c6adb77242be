"""`parity zoo` as a user and a script see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.cli import main


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["parity", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def arguments(world: Path) -> list[str]:
    paths = {name: str(world / name) for name in ("faults", "prompts", "floors", "model", "out")}
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    engine = ["--engine", "zoo_stub.open_engine", "--investigator", "zoo_stub:answer", "--tokens", "40:50"]
    return ["zoo", "run", *options, *engine]


def test_run_as_json(stub_world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (stub_world / "faults" / "broken.py").unlink()
    only = ["--only", "found_right", "--only", "silent_control"]
    assert run_cli(monkeypatch, *arguments(stub_world), *only, "--jobs", "2", "--json") == 2
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert [(one["name"], one["detected"], one["proved"]) for one in told["faults"]] == [("found_right", True, True)]
    assert [(one["name"], one["blamed"]) for one in told["controls"]] == [("silent_control", False)]
    assert told["clean"] == []
    assert "bad_stage" in told["problems"][0]
    assert told["summary"]["detected"]["low"] < 1
    assert "found_right@0: done" in captured.err

    assert run_cli(monkeypatch, *arguments(stub_world), *only, "--resume") == 2
    shown = capsys.readouterr().out
    assert "found_right@0" in shown
    assert "unknown stage 'moe.upp'" in shown.replace("\n", " ")


def test_list(stub_world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    faults = str(stub_world / "faults")
    assert run_cli(monkeypatch, "zoo", "list", "--faults", faults, "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert "dies" in [one["name"] for one in told["faults"]]
    assert len(told["problems"]) == 2
    assert run_cli(monkeypatch, "zoo", "list") == 0
    assert "moe_tile_truncation" in capsys.readouterr().out


def test_misuse_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run_cli(monkeypatch, "zoo", "run", "--faults", "no/such/folder", "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"]["place"] == "--faults"
    assert run_cli(monkeypatch, "zoo", "run", "--only", "no_such_fault") == 2
    assert "no_such_fault" in capsys.readouterr().err
