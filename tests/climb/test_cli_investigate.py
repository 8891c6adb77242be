"""`parity investigate` and `parity report` as a shell sees them: exit codes, JSON, a killed run, a trace alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from parity.climb import Case
from parity.climb.rungs import RUNGS
from parity.errors import UsageError
from parity.registry import refuse_missing_model
from tests.cli.conftest import Command, Ended

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def asked(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options that every run here has; `prompt` is the file of its ids."""
    prompt = tmp_path_factory.mktemp("prompt") / "prompt.json"
    prompt.write_text(json.dumps({"name": case.request.name, "ids": list(case.request.ids)}))
    return {"oracle": case.oracle, "floor": str(case.floor), "prompt": str(prompt), "tokens": "3"}


def options(asked: dict[str, str], **more: Any) -> list[str]:
    return [part for name, value in {**asked, **more}.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def killed(case: Case, asked: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy engine's investigation, killed once its third rung is on the disk."""
    out = tmp_path_factory.mktemp("killed") / "case"
    command = [
        sys.executable,
        "-m",
        "parity.cli",
        "investigate",
        *options(asked, sut=case.sut, option="order=3", out=out),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    limit = time.monotonic() + 300
    while not (out / "rungs" / RUNGS[2].file).exists() and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was ended in the middle"
    return out


@pytest.fixture(scope="module")
def resumed(killed: Path) -> dict[str, int]:
    """When each rung was written that the killed run had finished."""
    return {path.name: path.stat().st_mtime_ns for path in (killed / "rungs").glob("*.json")}


def test_a_killed_run_goes_on_to_a_clean_verdict(
    parity: Command,
    case: Case,
    asked: dict[str, str],
    killed: Path,
    resumed: dict[str, int],
):
    assert len(resumed) >= 3
    given = options(asked, sut=case.sut, option="order=3", out=killed)
    refused = parity("investigate", *given)
    assert (refused.code, "--resume" in refused.err) == (2, True), "a folder with an investigation is not written over"
    ended = parity("investigate", *given, "--resume", "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert (found["verdict"], found["exit_code"], found["folder"]) == ("clean", 0, str(killed))
    assert [one["name"] for one in found["rungs"]] == [rung.name for rung in RUNGS]
    assert found["not_excluded"], "a clean verdict says what it leaves open"
    assert json.loads((killed / "finding.json").read_text())["verdict"] == "clean"
    now = {name: (killed / "rungs" / name).stat().st_mtime_ns for name in resumed}
    assert now == resumed, "what was done is not done again"

    reported = parity("report", killed, "--markdown", killed / "note.md")
    assert reported.code == 0, reported.err
    assert "Verdict: clean." in (killed / "note.md").read_text()


def test_a_trace_alone_is_judged_as_far_as_it_goes(
    parity: Command,
    case: Case,
    asked: dict[str, str],
    killed: Path,
    resumed: dict[str, int],
    tmp_path: Path,
):
    # Its trace is whole once the killed run has gone on, whichever test asks for that first.
    assert parity("investigate", *options(asked, sut=case.sut, option="order=3", out=killed), "--resume").code == 0
    given = {name: value for name, value in asked.items() if name != "prompt"}
    ended = parity(
        "investigate", *options(given, sut=f"trace:{killed / 'traces' / 'sut'}", out=tmp_path / "t"), "--json"
    )
    found = ended.json
    status = {one["name"]: one["status"] for one in found["rungs"]}
    assert (ended.code, found["verdict"]) == (0, "clean"), found
    assert [status[name] for name in ("audit", "symptom", "proof", "fixture")] == ["NOT_RUN"] * 4
    assert [status[name] for name in ("sweep", "replay", "zoom")] == ["ruled_out"] * 3
    assert any("symptom" in one for one in found["not_excluded"])


def test_a_fault_is_exit_one_and_a_sentence(
    parity: Command,
    case: Case,
    asked: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    model = case.oracle.partition(":")[2]
    skipped = [part for number in (0, 1, 2, 3, 7, 8) for part in ("--skip", number)]
    out = tmp_path / "case"
    ended = parity("investigate", *options(asked, sut=f"planted_engine.open_scaled:{model}", out=out), *skipped)
    assert ended.code == 1, ended.err
    said = " ".join(ended.out.split())
    assert "fault: The first stage that adds error is moe.down of layer 1" in said
    assert "No fix is recommended before" in said
    assert "not excluded: rung 2 symptom was not run" in said
    assert "5 replay: found" in ended.said, "each rung is told as it ends"


def test_the_dry_run_says_what_it_takes_and_writes_nothing(
    parity: Command,
    asked: dict[str, str],
    fp8_model: Path,
    tmp_path: Path,
):
    given = options({**asked, "oracle": f"hf:{fp8_model}"}, sut=f"triton:{fp8_model}", out=tmp_path / "case")
    plan: Ended = parity("investigate", *given, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert [row["number"] for row in plan.json["rungs"]] == list(range(9))
    assert plan.json["seconds"] > 0
    assert "In all about" in parity("investigate", *given, "--dry-run").out
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": None}, "--prompt FILE"),
        ({"prompt": "nowhere.json"}, "nowhere.json"),
        ({"oracle": "hf:nowhere"}, "nowhere"),
        ({"sut-ids": "ids.json"}, "--messages"),
        ({"floor": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_what_cannot_be_investigated_is_refused(
    parity: Command,
    case: Case,
    asked: dict[str, str],
    tmp_path: Path,
    changed: dict,
    said: str,
):
    given = {name: value for name, value in {**asked, **changed}.items() if value is not None}
    ended = parity("investigate", *options(given, sut=case.sut, out=tmp_path / "case"))
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_report_of_no_investigation_is_refused(parity: Command, tmp_path: Path):
    ended = parity("report", tmp_path)
    assert (ended.code, "parity investigate" in ended.err) == (2, True)


def test_a_model_that_is_not_there_is_refused_before_anything_is_opened(tmp_path: Path):
    """In a process of its own: what was imported is told by it."""
    program = (
        "import sys; sys.argv = sys.argv[1:]\n"
        "from parity.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    given = [
        "parity",
        "investigate",
        "--sut",
        f"triton:{tmp_path}",
        "--oracle",
        f"hf:{tmp_path}/none",
        "--ids",
        "1,2,3",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *given, "--out", str(tmp_path / "out")], capture_output=True, text=True,
        check=False, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.stdout.split() == ["2", "False", "False"], done.stderr
    assert "nothing at that path" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spec", ["hf:org/name", "http:http://127.0.0.1:1", "triton:model", "recipe"])
def test_what_is_no_path_is_left_to_the_runner(spec: str):
    refuse_missing_model(spec)


@pytest.mark.parametrize("spec", ["hf:/nowhere/model", "hf:./nowhere", "trace:~/nowhere", "hf:fixtures/models/nowhere"])
def test_a_path_that_leads_nowhere_is_refused(spec: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    with pytest.raises(UsageError, match="nothing at that path"):
        refuse_missing_model(spec)
