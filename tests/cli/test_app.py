"""The command line: one readable paragraph for refused input, JSON on request, exit codes as promised."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from parity import cli
from parity.doctor import Check, examine
from parity.errors import UsageError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "parity.cli", *arguments], capture_output=True, text=True, check=False)


def test_doctor_speaks_of_what_matters():
    done = run("doctor", "--json")
    names = {check["name"] for check in json.loads(done.stdout)}
    assert {
        "python",
        "torch",
        "triton",
        "transformers",
        "processor",
        "comparator",
        "device",
        "kernels",
        "nvcc",
    } <= names
    assert done.returncode == 0, "this machine runs the tests, so it can run the demo"
    assert "interpreter" in run("doctor").stdout or "compiled" in run("doctor").stdout


def test_doctor_says_so_when_the_demo_cannot_run(monkeypatch: pytest.MonkeyPatch):
    missing = (Check("triton", "bad", "missing (extra `triton`)", "no shipped engine"),)
    monkeypatch.setattr("parity.doctor.examine", lambda: missing)
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 2
    assert "no shipped engine" in done.stdout


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    from importlib.metadata import PackageNotFoundError

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("parity.doctor.version", version)
    states = {check.name: check.state for check in examine()}
    assert states["triton"] == states["transformers"] == "bad"
    assert states["matplotlib"] == "skip"


def refuse(*_: object) -> None:
    raise UsageError(place="here", expected="this", found="that", next_step="Do so.")


def test_refused_input_ends_in_one_paragraph_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("parity.demo.run_demo", refuse)
    monkeypatch.setattr(sys, "argv", ["parity", "demo"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said == "parity: here: expected this; found that. Do so."


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parity.demo.run_demo", refuse)
    monkeypatch.setattr(sys, "argv", ["parity", "--debug", "demo"])
    with pytest.raises(UsageError):
        cli.main()
