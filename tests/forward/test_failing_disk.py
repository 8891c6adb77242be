"""Does an engine answer under capture when the disk is full? Tokens and logits are those of a run without probes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.probes import CapturePlan, capture, open_recorder
from parity.runner import Request, Schedule
from parity.trace import DiskError, shard_writer, verify_trace, writer
from parity_kernels.forward.runner import open_runner

Prompt = Callable[..., Request]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with 40,000 bytes left: some steps fit."""
    left = [40_000]

    def write(file: Any, raw: memoryview) -> None:
        left[0] -= len(raw)
        if left[0] < 0:
            file.write(raw[:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        file.write(raw)

    monkeypatch.setattr(shard_writer, "write_all", write)
    monkeypatch.setattr(writer, "write_all", write)


@pytest.mark.usefixtures("full_disk")
def test_generation_and_logits_survive_a_full_disk(
    bf16_model: Path, prompt: Prompt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner = open_runner(str(bf16_model))
    start, schedule = prompt(20), Schedule(chunk=4)
    text, logits = runner.generate(start, max_new_tokens=3, schedule=schedule), runner.logits([start])

    with monkeypatch.context() as environment:
        environment.setenv("PARITY_CAPTURE", str(tmp_path / "env"))
        environment.setenv("PARITY_STAGES", "resid.*,embed.out")
        with pytest.warns(RuntimeWarning, match="capture stopped, the engine goes on"):
            assert runner.generate(start, max_new_tokens=3, schedule=schedule) == text
    listing = verify_trace(tmp_path / "env")
    assert not listing.complete
    assert listing.captures > 0
    assert listing.running is not None

    run = runner._run([start], Schedule())
    with capture(tmp_path / "logits"), pytest.warns(RuntimeWarning, match="ENOSPC"), open_recorder(run) as recorder:
        found = runner.logits([start], probes=recorder)
    assert torch.equal(found, logits)

    # What forward returns is the trace itself: that is the one thing that is lost, and it says why.
    with pytest.warns(RuntimeWarning, match="ENOSPC"), pytest.raises(DiskError, match="ENOSPC"):
        runner.forward([start], capture=CapturePlan(out=tmp_path / "forward"))
