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
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out


def test_the_lost_rows_are_found(demo: tuple[dict, Path]):
    result, _ = demo
    finding = result["finding"]
    assert finding["layers"] == [0, 1, 2, 3]
    assert finding["stage"] in ("moe.gate", "moe.up")
    assert finding["cause"] == "rows past a tile edge were never written"
    assert finding["slice"]["experts"]
    assert finding["slice"]["rows"][0] % 64 == 0
    assert result["worst_over_floor"] > 5


def test_the_whole_tensor_looks_healthy_and_the_text_does_not(demo: tuple[dict, Path]):
    result, _ = demo
    assert result["whole_tensor_cosine"] > 0.98
    assert result["text_healthy"] == result["text_oracle"]
    assert result["text_faulty"] != result["text_oracle"]


def test_the_control_is_cleared(demo: tuple[dict, Path]):
    assert demo[0]["healthy_within_floor"] is True


def test_the_report_lies_where_it_was_asked_for(demo: tuple[dict, Path]):
    result, out = demo
    assert {path.name for path in out.iterdir()} == {
        "report.md", "finding.json", "layer-stage-map.png", "expert-load.png",
    }  # fmt: skip
    written = json.loads((out / "finding.json").read_text())
    assert written["finding"]["verdict"] == "fault"
    assert written["healthy"]["verdict"] == "clean"
    assert written["summary"]["finding"] == result["finding"]
    assert "rows past a tile edge were never written" in (out / "report.md").read_text()
