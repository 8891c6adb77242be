"""Does `parity replay` answer of a trace on disk, and refuse what cannot answer?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity import cli
from parity.floor import Floor
from parity.records import Lineage
from parity.runner import CapturePlan, Request, open_runner
from parity.trace import open_trace


@pytest.fixture(scope="module")
def on_disk(fp8_model: Path, request_160: Request, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("traces") / "sut"
    runner = open_runner(f"recipe:{fp8_model}", order=1)
    runner.forward([request_160], capture=CapturePlan(out=folder))
    assert open_trace(folder).captures
    return folder


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command as the shell runs it: exit code, and what it printed on either stream."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out + told.err

    return run


def test_the_command_reads_a_trace_from_disk(on_disk: Path, fp8_model: Path, floor: Floor, tmp_path: Path, parity: Any):
    floor.save(tmp_path / "floor.json")
    call = ("replay", "--trace", on_disk, "--oracle", f"recipe:{fp8_model}", "--layer", 1, "--stage", "moe.*")
    code, output = parity(*call, "--floor", tmp_path / "floor.json", "--json")
    assert code == 0, output
    told = json.loads(output)
    assert told["first_adds"] is None
    assert {row["site"] for row in told["rows"]} >= {"L01.moe.gate", "L01.moe.down"}
    assert all(row["site"].startswith("L01.moe") for row in told["rows"])
    code, output = parity(*call)
    assert code == 0
    assert "without a floor" in output


def test_the_command_refuses_what_cannot_answer(
    on_disk: Path, fp8_model: Path, request_160: Request, floor: Floor, tmp_path: Path, parity: Any
):
    other = replace(floor, recipe=replace(floor.recipe, name="bf16"))
    other.save(tmp_path / "recipe.json")
    replace(floor, lineage=Lineage("other")).save(tmp_path / "lineage.json")
    bare = tmp_path / "bare"
    open_runner(f"recipe:{fp8_model}").forward([request_160], capture=CapturePlan(stages=("moe.down",), out=bare))
    for arguments, said in (
        (("--trace", bare), "all that it reads"),
        (("--trace", on_disk, "--floor", tmp_path / "recipe.json"), "noise floor"),
        (("--trace", on_disk, "--floor", tmp_path / "lineage.json"), "noise floor"),
        (("--trace", on_disk, "--layer", 7), "layers 0..1"),
        (("--trace", on_disk, "--stage", "moe.nothing"), "a stage of this family"),
        (("--trace", tmp_path / "nowhere"), "nowhere"),
    ):
        code, output = parity("replay", "--oracle", f"recipe:{fp8_model}", *arguments)
        assert code == 2, (arguments, output)
        assert said in " ".join(output.split()), (arguments, output)
