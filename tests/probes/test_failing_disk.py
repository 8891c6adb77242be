"""Does a full or failing disk cost the trace and never the engine's output, and does the message say what to do?"""

# Several statements under `raises` on purpose: the block is the forward pass that must fail.
# ruff: noqa: PT012

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parity.probes import OFF, CapturePlan, Recorder, capture, open_recorder, watch
from parity.trace import DiskError, FolderError, open_trace, shard_writer, verify_trace, writer

PROMPT = (5, 6, 7, 8, 9, 10, 11, 12, 13)


class FailingDisk:
    """Takes `room` bytes, half of the write that goes beyond, and nothing more."""

    def __init__(self, room: int, number: int) -> None:
        self.room, self.number = room, number

    def __call__(self, file: Any, raw: memoryview) -> None:
        taken = min(len(raw), self.room)
        file.write(raw[: taken if taken == len(raw) else taken // 2])
        self.room -= taken
        if taken < len(raw):
            self.room = 0
            raise OSError(self.number, os.strerror(self.number), file.name)


@pytest.fixture
def break_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def plant(room: int, number: int = errno.ENOSPC) -> None:
        disk = FailingDisk(room, number)
        monkeypatch.setattr(shard_writer, "write_all", disk)
        monkeypatch.setattr(writer, "write_all", disk)

    return plant


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("room", [0, 300, 5_000, 20_000, 30_000])
@pytest.mark.filterwarnings("ignore:capture stopped")
def test_the_forward_pass_ends_and_the_trace_says_why_it_did_not(
    engine: Any, tmp_path: Path, break_disk: Callable[..., None], room: int, number: int
) -> None:
    run = engine.run(PROMPT)
    expected = engine.forward(OFF, run, decode=2)
    break_disk(room, number)
    recorder = Recorder(CapturePlan(out=tmp_path / "t"), run)
    with recorder:
        found = engine.forward(recorder, recorder.run, decode=2)
    assert torch.equal(found, expected)
    assert recorder.failure is not None
    with pytest.raises(DiskError) as caught:
        recorder.trace()
    error = caught.value
    assert str(tmp_path / "t") in error.place
    assert errno.errorcode[number] in error.found
    assert "captures" in error.found
    assert "bytes of tensors" in error.found
    header_fits = room >= 5_000
    assert ("can be read, as an incomplete trace" in error.next_step) == header_fits
    if not header_fits:
        return
    listing = verify_trace(tmp_path / "t")
    assert not listing.complete
    assert not listing.torn
    assert not listing.being_written
    assert listing.orphans == ()
    assert f"{listing.captures} captures, " in error.found
    assert listing.running is not None
    assert (listing.captures > 0) == (room > 10_000)


def test_it_is_told_when_it_happens(engine: Any, tmp_path: Path, break_disk: Callable[..., None]) -> None:
    break_disk(12_500)
    recorder = Recorder(CapturePlan(out=tmp_path / "t"), engine.run(PROMPT))
    with pytest.warns(RuntimeWarning, match=r"capture stopped, the engine goes on: .*ENOSPC"), recorder:
        engine.forward(recorder, recorder.run)


@pytest.mark.filterwarnings("ignore:capture stopped")
def test_nothing_piles_up_after_the_failure(engine: Any, tmp_path: Path, break_disk: Callable[..., None]) -> None:
    break_disk(0)
    recorder = Recorder(CapturePlan(out=tmp_path / "t"), engine.run(PROMPT))
    with recorder:
        engine.forward(recorder, recorder.run, decode=2)
        assert recorder.captures > 10
        assert recorder.sink._buffer.items == []  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:capture stopped")
def test_the_body_s_own_exception_comes_first(engine: Any, tmp_path: Path, break_disk: Callable[..., None]) -> None:
    break_disk(12_500)
    recorder = Recorder(CapturePlan(out=tmp_path / "t"), engine.run(PROMPT))
    with pytest.raises(ZeroDivisionError) as caught, recorder:
        engine.forward(recorder, recorder.run)
        raise ZeroDivisionError
    assert "ENOSPC" in caught.value.__notes__[0]


@pytest.mark.filterwarnings("ignore:capture stopped")
def test_a_watched_module_returns_its_output(tmp_path: Path, break_disk: Callable[..., None]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(32, 8), nn.Linear(8, 32))
    ids = torch.tensor([3, 1, 4, 1, 5])
    with torch.no_grad():
        expected = model(ids)
    break_disk(2_000)
    with torch.no_grad(), watch(
        model, {"0": ("embed.out",), "1": ("logits",)}, plan=CapturePlan(out=tmp_path / "t")
    ) as watched:  # fmt: skip
        found = model(ids)
    assert torch.equal(found, expected)
    with pytest.raises(DiskError, match="ENOSPC"):
        watched.trace()


@pytest.mark.filterwarnings("ignore:capture stopped")
def test_statistics_are_not_lost_with_their_file(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, raw: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recorder = Recorder(CapturePlan(out=tmp_path / "t", mode="stats"), engine.run(PROMPT))
    with recorder:
        logits = engine.forward(recorder, recorder.run)
        monkeypatch.setattr(os, "write", refuse)
    monkeypatch.undo()
    assert len(logits)
    assert recorder.failure is not None
    assert "ENOSPC" in recorder.failure.found
    assert recorder.statistics()
    assert list((tmp_path / "t").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(CapturePlan(out=tmp_path / "file" / "t"), engine.run(PROMPT))
    with pytest.raises(FolderError, match="Name another folder"), recorder:
        raise AssertionError("the body must not run")


def test_under_the_environment_an_unwritable_folder_does_not_stop_the_engine(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARITY_CAPTURE", str(tmp_path / "file" / "t"))
    run = engine.run(PROMPT)
    with pytest.warns(RuntimeWarning, match="a folder that can be made"), open_recorder(run) as recorder:
        found = engine.forward(recorder, run)
    assert torch.equal(found, engine.forward(OFF, run))


LIMITED = """
import json, resource, sys, warnings
sys.path.insert(0, {here!r})
from pathlib import Path
import torch
from conftest import ToyEngine
from parity.probes import OFF, CapturePlan, Recorder
warnings.simplefilter("ignore")
engine = ToyEngine()
run = engine.run(tuple(range(5, 60)))
expected = engine.forward(OFF, run, chunk=50, decode=2)
resource.setrlimit(resource.RLIMIT_FSIZE, (14_000, 14_000))
recorder = Recorder(CapturePlan(out={out!r}), run)
with recorder:
    found = engine.forward(recorder, recorder.run, chunk=50, decode=2)
error = recorder.failure
print(json.dumps([torch.equal(found, expected), str(error)]))
"""


def run_child(code: str) -> Any:
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
        capture_output=True,
        timeout=200,
    )
    return json.loads(done.stdout)


def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    same, said = run_child(LIMITED.format(here=str(Path(__file__).parent), out=str(tmp_path / "t")))
    assert same
    assert "(EFBIG)" in said
    assert "ulimit -f" in said
    listing = verify_trace(tmp_path / "t")
    assert not listing.complete
    assert listing.damaged == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("may not mount a file system here; the limit of file sizes is tested instead")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.filterwarnings("ignore:capture stopped")
def test_a_disk_that_is_really_full(engine: Any, small_disk: Path) -> None:
    run = engine.run(tuple(range(5, 60)))
    expected = engine.forward(OFF, run, chunk=20, decode=4)
    with capture(small_disk / "t") as session, open_recorder(run) as recorder:
        found = engine.forward(recorder, run, chunk=20, decode=4)
    assert torch.equal(found, expected)
    with pytest.raises(DiskError, match="ENOSPC"):
        session.trace()
    listing = verify_trace(small_disk / "t")
    assert not listing.complete
    assert listing.captures == 10 * (len(open_trace(small_disk / "t").steps) - 1) > 0
    # The unfinished shard was removed: what it took is free again.
    assert listing.orphans == ()
