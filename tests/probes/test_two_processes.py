"""Do two processes ever write one trace? A living writer, a dead one and a sibling with the same environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.probes import CapturePlan, Recorder, open_recorder
from parity.probes.statistics import STATS
from parity.trace import TakenError, TraceWriter, open_trace, verify_trace
from parity.trace.lock import Claim, is_held

PROMPT = (5, 6, 7, 8, 9)
CHILD = """
import os, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from conftest import ToyEngine
from parity.probes import CapturePlan, Recorder, open_recorder
engine = ToyEngine()
run = engine.run((5, 6, 7, 8, 9))
def wait(word):
    print(word, flush=True)
    sys.stdin.readline()
{body}
"""
HOLDS = """
recorder = Recorder(CapturePlan(out={out!r}, mode={mode!r}), run)
with recorder:
    wait("writing")
    engine.forward(recorder, recorder.run)
"""
SERVES = """
wait("ready")
for _ in range(2):
    with open_recorder(run) as recorder:
        wait("open")
        engine.forward(recorder, run)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Any:
    children: list[subprocess.Popen[str]] = []

    def begin(body: str, **environment: str) -> subprocess.Popen[str]:
        code = CHILD.format(here=str(Path(__file__).parent), body=body)
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **environment},
        )  # fmt: skip
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def hear(child: subprocess.Popen[str], word: str) -> None:
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    assert line == word, (line, child.stderr.read() if child.stderr and child.poll() is not None else "")


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def end(child: subprocess.Popen[str]) -> str:
    go(child)
    said = child.communicate(timeout=100)[1]
    assert child.returncode == 0, said
    return said


def test_a_living_writer_is_told_from_a_dead_one(tmp_path: Path, engine: Any, start: Start) -> None:
    out = tmp_path / "t"
    child = start(HOLDS.format(out=str(out), mode="tensor"))
    hear(child, "writing")
    assert verify_trace(out).being_written
    assert "still writing" in str(verify_trace(out))
    with pytest.raises(TakenError, match="another process is writing now") as caught:
        TraceWriter(out, engine.run(PROMPT))
    assert caught.value.living
    child.send_signal(signal.SIGKILL)
    child.wait()
    # No lock is left behind: the same folder is now one of a writer that died.
    assert not verify_trace(out).being_written
    with pytest.raises(TakenError, match="whose writer is gone") as caught:
        TraceWriter(out, engine.run(PROMPT))
    assert not caught.value.living


def test_statistics_of_two_processes(tmp_path: Path, engine: Any, start: Start) -> None:
    out = tmp_path / "t"
    plan = CapturePlan(out=out, mode="stats")
    child = start(HOLDS.format(out=str(out), mode="stats"))
    hear(child, "writing")
    with pytest.raises(TakenError, match="is writing now"), Recorder(plan, engine.run(PROMPT)):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    # The draft of the dead process is taken over, and then the result stands.
    recorder = Recorder(plan, engine.run(PROMPT))
    with recorder:
        engine.forward(recorder, recorder.run)
    assert [path.name for path in out.iterdir()] == [STATS]
    before = (out / STATS).read_bytes()
    assert json.loads(before)["complete"]
    with pytest.raises(TakenError, match="whose writer is gone"), Recorder(plan, engine.run(PROMPT)):
        pass
    assert (out / STATS).read_bytes() == before
    assert [path.name for path in out.iterdir()] == [STATS]


def test_a_claim_does_not_follow_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / f"{STATS}.part").symlink_to(victim)
    with pytest.raises(OSError, match=r"symbolic|Too many levels"):
        Claim(tmp_path / STATS)
    assert victim.read_text() == "kept"
    assert not is_held(victim)


def test_workers_of_one_engine_name_their_traces_apart(tmp_path: Path, start: Start) -> None:
    out = tmp_path / "t"
    workers = [start(SERVES, PARITY_CAPTURE=str(out)) for _ in range(2)]
    for worker in workers:
        hear(worker, "ready")
    # Both open at the same time, then each goes on to its second run; the first is over before the second is done.
    for worker in workers:
        go(worker)
    for _ in range(2):
        for worker in workers:
            hear(worker, "open")
        for worker in workers:
            go(worker)
    said = [worker.communicate(timeout=100)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    apart = [path for path in out.iterdir() if path.name.startswith("process-")]
    assert len(apart) == 1
    assert apart[0].name in {f"process-{worker.pid}" for worker in workers}
    for folder in (out, out / "run-0001", apart[0], apart[0] / "run-0001"):
        listing = verify_trace(folder)
        assert listing.complete
        assert listing.captures == 20
    assert sum("has the trace of another process" in text for text in said) == 1


def test_an_old_trace_is_refused_and_a_sibling_s_finished_one_is_not(tmp_path: Path, engine: Any, start: Start) -> None:
    out = tmp_path / "t"
    # This process has used probes for a while: what it writes now is younger than it, older than the next one.
    late = start(SERVES, PARITY_CAPTURE=str(out))
    hear(late, "ready")
    recorder = Recorder(CapturePlan(out=out), engine.run(PROMPT))
    with recorder:
        engine.forward(recorder, recorder.run)
    go(late)
    hear(late, "open")
    go(late)
    hear(late, "open")
    assert "another process" in end(late)
    assert verify_trace(out / f"process-{late.pid}").complete
    os.utime(out / "manifest.jsonl", (1, 1))
    next_one = start(SERVES, PARITY_CAPTURE=str(out))
    hear(next_one, "ready")
    go(next_one)
    said = next_one.communicate(timeout=100)[1]
    assert next_one.returncode != 0
    assert "TakenError" in said
    assert "whose writer is gone" in said


def test_a_forked_worker_starts_over(tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_CAPTURE", str(tmp_path / "t"))
    run = engine.run(PROMPT)
    with open_recorder(run) as recorder:
        engine.forward(recorder, run)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in range(2):
                with open_recorder(run) as recorder:
                    engine.forward(recorder, run)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with open_recorder(run) as recorder:
        engine.forward(recorder, run)
    own = tmp_path / "t" / f"process-{child}"
    for folder in (tmp_path / "t", tmp_path / "t" / "run-0001", own, own / "run-0001"):
        assert open_trace(folder).complete
