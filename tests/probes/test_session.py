"""Which recorder does an engine get: its own, the innermost capture's, the environment's, or none?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parity.errors import ProbeError, TraceError, UsageError
from parity.probes import OFF, CapturePlan, active, capture, open_recorder
from parity.trace import open_trace, verify_trace

IDS = (5, 6, 7, 8, 9)


def serve(engine: Any) -> None:
    """An engine's production path."""
    run = engine.run(IDS)
    with open_recorder(run) as recorder:
        engine.forward(recorder, run)


def test_nothing_asked_for_is_off(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARITY_CAPTURE", raising=False)
    assert active() is OFF
    assert open_recorder(engine.run(IDS)) is OFF
    serve(engine)


def test_capture_sees_the_runs_inside_it(engine: Any, tmp_path: Path) -> None:
    with capture(stages=["moe.*"], tokens="last") as session:
        serve(engine)
    assert {c.stage for c in session.trace().captures} == {"moe.topk_ids", "moe.gate"}
    with capture(tmp_path / "t") as outer:
        with capture(layers=[1]) as inner:
            serve(engine)
        serve(engine)
        serve(engine)
    assert {c.layer for c in inner.trace().captures} == {1}
    assert active() is OFF
    assert verify_trace(tmp_path / "t").complete
    assert open_trace(tmp_path / "t" / "run-0001").complete
    with pytest.raises(ProbeError, match="one run"):
        outer.trace()


def test_a_plan_of_its_own_comes_first(engine: Any) -> None:
    with capture() as session:
        recorder = open_recorder(engine.run(IDS), CapturePlan(stages=("logits",)))
        with recorder:
            engine.forward(recorder, engine.run(IDS))
    assert not session.recorders
    with pytest.raises(ProbeError, match="0"):
        session.trace()


def test_a_session_has_no_steps_of_its_own() -> None:
    with capture(), pytest.raises(ProbeError, match="open_recorder"):
        active().step(phase="prefill")
    with pytest.raises(UsageError):
        capture(stages=["moe.gaet"])


def test_the_environment_captures(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_CAPTURE", str(tmp_path / "t"))
    monkeypatch.setenv("PARITY_STAGES", "resid.*")
    serve(engine)
    serve(engine)
    assert {c.stage for c in open_trace(tmp_path / "t").captures} == {"resid.out"}
    assert open_trace(tmp_path / "t" / "run-0001").complete
    monkeypatch.setenv("PARITY_TOKENS", "some")
    with pytest.raises(UsageError, match="PARITY_TOKENS"):
        serve(engine)
    monkeypatch.setenv("PARITY_CAPTURE", "")
    assert active() is OFF


def test_importing_probes_imports_no_engine() -> None:
    code = "import sys, parity.probes; sys.exit(any(n in sys.modules for n in ('triton', 'transformers')))"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=False)
    assert done.returncode == 0


def test_filters_without_a_capture_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PARITY_CAPTURE", raising=False)
    monkeypatch.setenv("PARITY_STAGES", "moe.*")
    with pytest.raises(UsageError, match=r"PARITY_CAPTURE=dir.*found PARITY_STAGES=moe"):
        active()
    monkeypatch.setenv("PARITY_CAPTURE", "")
    assert active() is OFF


@pytest.mark.parametrize("folder", ["file", "file/inside", "/proc/parity"])
@pytest.mark.parametrize("mode", ["tensor", "stats"])
def test_a_folder_that_cannot_be_made_is_named(engine: Any, tmp_path: Path, folder: str, mode: str):
    (tmp_path / "file").write_text("")
    with capture(tmp_path / folder, mode=mode), pytest.raises(TraceError, match="a folder that can be made"):
        serve(engine)
