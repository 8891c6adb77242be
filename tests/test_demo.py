"""The main job, end to end, as a user runs it: fault found blind, control cleared, report written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("demo") / "demo-report"
    command = [sys.executable, "-m", "parity.cli", "demo", "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out


@pytest.mark.long
def test_the_lost_rows_are_found(demo: tuple[dict, Path]):
    result, _ = demo
    finding = result["finding"]
    assert finding["layers"] == [0, 1, 2, 3]
    assert finding["stage"] in ("moe.gate", "moe.up")
    assert finding["cause"] == "rows past a tile edge were never written"
    assert finding["slice"]["experts"]
    assert finding["slice"]["rows"][0] % 64 == 0
    assert result["worst_over_floor"] > 5
    assert any("grid_cap=256 truncated=true" in line for line in result["launches"])


@pytest.mark.long
def test_the_whole_tensor_looks_healthy_and_the_text_does_not(demo: tuple[dict, Path]):
    result, _ = demo
    assert result["whole_tensor_cosine"] > 0.98
    assert result["text_healthy"] == result["text_oracle"]
    assert result["text_faulty"] != result["text_oracle"]


@pytest.mark.long
def test_the_control_is_cleared(demo: tuple[dict, Path]):
    assert demo[0]["healthy_within_floor"] is True


@pytest.mark.long
def test_the_report_lies_where_it_was_asked_for(demo: tuple[dict, Path]):
    result, out = demo
    for name in ("report.md", "report.html", "finding.json", "ledger.jsonl", "demo.json", "layer-stage-map.png"):
        assert (out / name).is_file(), name
    assert {"layer-stage-map.png", "expert-load.png"} <= {path.name for path in (out / "figures").iterdir()}
    written = [json.loads((folder / "finding.json").read_text()) for folder in (out, out / "without-fault")]
    assert [one["verdict"] for one in written] == ["fault", "clean"]
    assert written[0]["proof"]["proved"]
    assert json.loads((out / "demo.json").read_text())["finding"] == result["finding"]
    assert "rows past a tile edge were never written" in (out / "report.md").read_text()


def test_what_an_earlier_demo_left_is_removed_and_nothing_else(tmp_path: Path):
    from parity.climb.investigation import claim_folder
    from parity.demo import FAULT, demo_case
    from parity.demo.run import clear_demo

    claim_folder(demo_case(FAULT), tmp_path, resume=False)
    (tmp_path / "rungs").mkdir()
    (tmp_path / "notes.md").write_text("mine")
    clear_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
    claim_folder(demo_case(None), tmp_path, resume=False)
    clear_demo(tmp_path)
    assert (tmp_path / "case.json").is_file(), "another investigation is not the demo's to remove"


@pytest.mark.long
def test_the_terminal_shows_what_was_found(demo: tuple[dict, Path]):
    from rich.console import Console

    from parity.climb import Investigation
    from parity.demo import DemoResult, Texts
    from parity.demo.show import show_demo
    from parity.runner import Generation

    result, out = demo
    texts = Texts(*(Generation((1,), result[f"text_{who}"]) for who in ("oracle", "faulty", "healthy")))
    shown = DemoResult(Investigation.read(out), Investigation.read(out / "without-fault"), texts, 1.0)
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    show_demo(shown, console)
    said = console.export_text()
    for part in (
        "grid_cap=256 truncated=true", "a fixed gate of cosine >= 0.99 passes it", "6. The proof  proved",
        "everything within the floor", "rows past a tile edge were never written", "expert 7",
        result["text_faulty"].replace("\n", "⏎")[:12],
    ):  # fmt: skip
        assert part in said, part
