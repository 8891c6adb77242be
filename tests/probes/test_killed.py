"""What does a process leave that is killed while it captures? Everything it had flushed, and word of what it was doing.

One child imports the library and forks a victim for each moment: the n-th write or flush to the disk, of which only
half of the bytes still get through, and moments drawn at random.
"""

# Several statements under `raises` on purpose: the block is the forward pass that must fail.
# ruff: noqa: PT012

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import TraceError
from parity.probes import CapturePlan, Recorder
from parity.trace import open_trace, verify_trace

SCRIPT = """
import json, os, random, signal, sys, time, warnings
sys.path.insert(0, {here!r})
from pathlib import Path
from conftest import ToyEngine
from parity.probes import CapturePlan, Recorder, disk_sink
from parity.trace import shard_writer, writer
disk_sink.FLUSH_SECONDS = {seconds}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def capture(folder, moment):
    calls = [0]
    real_write, real_sync = shard_writer.write_all, os.fsync
    def write(file, raw):
        calls[0] += 1
        if calls[0] == moment:
            real_write(file, raw[: len(raw) // 2])
            die()
        real_write(file, raw)
    def sync(handle):
        calls[0] += 1
        if calls[0] == moment:
            die()
        real_sync(handle)
    shard_writer.write_all = writer.write_all = write
    os.fsync = sync
    flush = writer.TraceWriter.flush
    def told(self):
        flush(self)
        (folder.parent / (folder.name + ".flushed")).write_text(str(self.captures))
    writer.TraceWriter.flush = told
    engine = ToyEngine()
    recorder = Recorder(CapturePlan(out=folder), engine.run(tuple(range(5, 14)), (20, 21, 22)))
    with recorder:
        engine.forward(recorder, recorder.run, decode=2)
    return calls[0]

def victim(folder, moment, delay=None):
    child = os.fork()
    if child == 0:
        try:
            capture(folder, moment)
        finally:
            os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)

base = Path({base!r})
before = time.perf_counter()
child = os.fork()
if child == 0:
    (base / "total").write_text(str(capture(base / "whole", 0)))
    os._exit(0)
os.waitpid(child, 0)
took = time.perf_counter() - before
total = int((base / "total").read_text())
stride = max(1, total // {moments})
killed = dict()
for moment in range(1, total + 1, stride):
    killed[f"write-{{moment}}"] = victim(base / f"write-{{moment}}", moment)
chance = random.Random(5)
for number in range({random}):
    killed[f"time-{{number}}"] = victim(base / f"time-{{number}}", 0, chance.uniform(0, took))
print(json.dumps(killed))
"""


@pytest.mark.parametrize(("seconds", "moments"), [(2.0, 22), (-1.0, 11)], ids=["a flush a step", "a flush a capture"])
def test_whenever_it_is_killed_what_was_flushed_verifies(tmp_path: Path, seconds: float, moments: int) -> None:
    code = SCRIPT.format(
        here=str(Path(__file__).parent), base=str(tmp_path), seconds=seconds, moments=moments, random=3
    )  # fmt: skip
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
        capture_output=True,
        timeout=250,
    )
    killed = json.loads(done.stdout)
    whole = open_trace(tmp_path / "whole")
    reference = [_bits(whole.tensor(capture)) for capture in whole.captures]
    assert verify_trace(tmp_path / "whole").complete
    assert sum(killed.values()) >= moments
    partial = 0
    for name, was_killed in killed.items():
        if not was_killed:
            continue
        folder, flushed = tmp_path / name, tmp_path / f"{name}.flushed"
        acknowledged = int(flushed.read_text() or 0) if flushed.exists() else 0
        try:
            listing = verify_trace(folder)
        except TraceError as error:
            unread, said = True, str(error)
        else:
            unread, said = False, ""
        if unread:
            # Only before the header is whole is there nothing to read.
            assert acknowledged == 0
            assert "header line" in said or "manifest.jsonl as a plain file" in said
            continue
        trace = open_trace(folder)
        assert listing.captures >= acknowledged
        assert not listing.being_written
        assert listing.damaged == ()
        for index, capture in enumerate(trace.captures):
            assert capture.name == whole.captures[index].name
            assert _bits(trace.tensor(capture)) == reference[index]
        if not listing.complete:
            partial += 1
            assert listing.captures < len(whole.captures) or listing.running == "decode step 2 chunk 0"
            if trace.steps:
                phase, step, chunk = trace.steps[-1]
                assert listing.running == f"{phase} step {step} chunk {chunk}"
                # The step before the running one is whole: what is missing is of this one.
                here = [c for c in trace.captures if (c.phase, c.step, c.chunk) == trace.steps[-1]]
                assert len(here) + len(listing.missing_in_step) == 10
                assert len(trace.captures) == 10 * (len(trace.steps) - 1) + len(here)
                assert f"stopped in {listing.running}" in str(listing)
    assert partial >= moments // 2


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_step_without_captures_is_named(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(CapturePlan(out=tmp_path / "t", stages=("moe.*",)), engine.run((5, 6, 7)))
    with pytest.raises(ZeroDivisionError), recorder:
        engine.forward(recorder, recorder.run)
        raise ZeroDivisionError
    listing = verify_trace(tmp_path / "t")
    assert listing.running == "prefill step 0 chunk 0"
    assert listing.missing_in_step == ()
    writer = open_trace(tmp_path / "t")
    assert writer.steps == (("prefill", 0, 0),)
