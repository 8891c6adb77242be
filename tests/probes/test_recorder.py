"""Does a recorder hand back what the forward pass computed, under the tokens it belongs to, and change no bit?"""

# Several statements under `raises` on purpose: the block is the forward pass that must fail.
# ruff: noqa: PT012

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import ConfigError, ProbeError, TraceError, UsageError
from parity.probes import OFF, CapturePlan, Recorder
from parity.records import Rows
from parity.trace import open_trace, verify_trace

LONG, SHORT = (5, 6, 7, 8, 9, 10, 11, 12, 13), (20, 21, 22)


def captured(engine: Any, plan: CapturePlan, *requests: tuple[int, ...], **how: Any) -> Any:
    recorder = Recorder(plan, engine.run(*requests))
    with recorder:
        engine.forward(recorder, recorder.run, **how)
    return recorder.trace()


def test_outputs_with_capture_on_off_and_filtered_are_the_same_bits(engine: Any, tmp_path: Path) -> None:
    run = engine.run(LONG, SHORT)
    off = engine.forward(OFF, run, decode=1)
    for plan in (
        CapturePlan(),
        CapturePlan(out=tmp_path / "t"),
        CapturePlan(mode="stats"),
        CapturePlan(layers=(1,), stages=("moe.*",), tokens="last"),
        None,
    ):
        recorder = Recorder(plan, run)
        with recorder:
            on = engine.forward(recorder, run, decode=1)
        assert torch.equal(on.view(torch.int32), off.view(torch.int32))


def test_off_gives_back_the_tensor_itself() -> None:
    x = torch.zeros(2, 3)
    with OFF as recorder:
        probe = recorder.step(phase="prefill", step=0, chunk=0, rows=None, last_position=[])
        assert probe("embed.out", x) is x
        assert probe("moe.gate", x, layer=3, rows=None, geometry={}, launch={}) is x
        assert not probe.wants("attn.q_norm", 3)
    assert not OFF


def test_captures_carry_absolute_positions_over_chunks_requests_and_steps(engine: Any) -> None:
    trace = captured(engine, CapturePlan(), LONG, SHORT, chunk=3, decode=1)
    seen: dict[tuple[int, int], float] = {}
    for capture in trace.select(stage="embed.out"):
        tensor = trace.tensor(capture)
        for row, (request, position) in enumerate(zip(capture.rows.request, capture.rows.position, strict=True)):
            seen[int(request), int(position)] = float(tensor[row, 0])
    expected = {
        (r, p): float(engine.embed[token, 0]) for r, ids in enumerate((LONG, SHORT)) for p, token in enumerate(ids)
    }
    assert seen == expected
    assert {(c.phase, c.step, c.chunk) for c in trace.captures} == {
        ("prefill", 0, 0),
        ("prefill", 0, 1),
        ("prefill", 0, 2),
        ("decode", 1, 0),
    }


def test_memory_and_disk_hold_the_same(engine: Any, tmp_path: Path) -> None:
    memory = captured(engine, CapturePlan(tokens="1:7"), LONG, SHORT, decode=1)
    disk = captured(engine, CapturePlan(tokens="1:7", out=tmp_path / "t"), LONG, SHORT, decode=1)
    assert verify_trace(tmp_path / "t").complete
    assert memory.run == disk.run
    assert len(memory.captures) == len(disk.captures) > 0
    for a, b in zip(memory.captures, disk.captures, strict=True):
        assert (a.name, a.phase, a.step, a.chunk, a.shape, a.dtype) == (
            b.name,
            b.phase,
            b.step,
            b.chunk,
            b.shape,
            b.dtype,
        )
        assert np.array_equal(a.rows.position, b.rows.position)
        assert np.array_equal(a.geometry["row"], b.geometry["row"])
        assert torch.equal(memory.tensor(a), disk.tensor(b))


def test_captures_are_copies(engine: Any) -> None:
    # The toy overwrites its residual with NaN at the end of each step.
    trace = captured(engine, CapturePlan(), LONG)
    assert all(bool(torch.isfinite(trace.tensor(capture).float()).all()) for capture in trace.captures)
    x = torch.zeros(3, 6)
    recorder = Recorder(CapturePlan(stages=("embed.out",)), engine.run(SHORT))
    with recorder:
        positions = np.arange(3, dtype=np.int64)
        probe = recorder.step(phase="prefill", step=0, rows=Rows(np.zeros(3, np.int32), positions))
        probe("embed.out", x)
        x.fill_(1)
        positions.fill(7)
    trace = recorder.trace()
    assert trace.tensor(trace.captures[0]).sum() == 0
    assert trace.captures[0].rows.position.tolist() == [0, 1, 2]


def test_gradients_and_strides_of_the_engine_do_not_leak(engine: Any) -> None:
    wide = torch.zeros(3, 2, 6, requires_grad=True)
    recorder = Recorder(CapturePlan(stages=("embed.out",)), engine.run(SHORT))
    with recorder:
        rows = Rows(np.zeros(3, np.int32), np.arange(3, dtype=np.int64))
        probe = recorder.step(phase="prefill", step=0, rows=rows)
        assert probe("embed.out", wide[:, 1]).requires_grad
    kept = recorder.trace().tensor(recorder.trace().captures[0])
    assert kept.is_contiguous()
    assert not kept.requires_grad


def test_the_exception_of_the_body_comes_through_and_the_trace_stays_incomplete(engine: Any, tmp_path: Path) -> None:
    for out in (None, tmp_path / "t"):
        recorder = Recorder(CapturePlan(out=out), engine.run(LONG))
        with pytest.raises(ZeroDivisionError), recorder:
            engine.forward(recorder, recorder.run)
            raise ZeroDivisionError
        trace = recorder.trace()
        assert not trace.complete
        assert len(trace.captures) == len(captured(engine, CapturePlan(), LONG).captures)


@pytest.mark.filterwarnings("ignore:capture stopped")
def test_a_failing_disk_does_not_hide_the_exception_of_the_body(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(CapturePlan(out=tmp_path / "t"), engine.run(LONG))
    with pytest.raises(ZeroDivisionError) as caught, recorder:
        (tmp_path / "t" / "shard-00000.safetensors").write_bytes(b"in the way")
        probe = recorder.step(phase="prefill", step=0, rows=Rows(np.zeros(1, np.int32), np.zeros(1, np.int64)))
        probe("embed.out", torch.zeros(1, 6))
        raise ZeroDivisionError
    assert "already there" in caught.value.__notes__[0]
    assert not open_trace(tmp_path / "t").complete


def test_misuse_is_refused(engine: Any, tmp_path: Path) -> None:
    run = engine.run(SHORT)
    rows = Rows(np.zeros(3, np.int32), np.arange(3, dtype=np.int64))
    with pytest.raises(ProbeError, match="with recorder"):
        Recorder(CapturePlan(), run).step(phase="prefill", step=0, rows=rows)
    with pytest.raises(UsageError, match="fit none of them"):
        Recorder(CapturePlan(stages=("attn.out",)), run)
    with pytest.raises(UsageError, match="layers from 0 to 1"):
        Recorder(CapturePlan(layers=(2,)), run)
    done = Recorder(CapturePlan(out=tmp_path / "t"), run)
    with done:
        engine.forward(done, run)
    with pytest.raises(ProbeError, match="one use"):
        done.__enter__()
    with pytest.raises(TraceError, match="without a trace"), Recorder(CapturePlan(out=tmp_path / "t"), run):
        pass


@pytest.mark.parametrize(
    ("stage", "layer", "shape", "rows", "said"),
    [
        ("embed.out", None, (3, 6), 4, "4 rows"),
        ("embed.out", None, (3, 2, 3), 3, "axes T D"),
        ("moe.gate", 0, (3, 6), 3, "slot and expert"),
        ("attn.q", 0, (3, 6), 3, "axes T H K"),
    ],
)
def test_a_tensor_that_contradicts_its_stage_is_refused(
    engine: Any, stage: str, layer: int | None, shape: tuple[int, ...], rows: int, said: str
) -> None:
    recorder = Recorder(CapturePlan(), engine.run(LONG))
    with pytest.raises(ProbeError, match=said), recorder:
        token_rows = Rows(np.zeros(rows, np.int32), np.arange(rows, dtype=np.int64))
        recorder.step(phase="prefill", step=0, rows=token_rows)(stage, torch.zeros(shape), layer)


def test_steps_that_contradict_the_run_are_refused(engine: Any) -> None:
    rows = Rows(np.full(2, 1, np.int32), np.arange(2, dtype=np.int64))
    for about, said in (
        ({"phase": "prefil", "rows": rows}, "prefill or decode"),
        ({"phase": "prefill", "rows": rows}, "requests 0 to 0"),
        ({"phase": "prefill", "rows": rows.take(np.array([], np.intp))}, "last_position"),
    ):
        recorder = Recorder(CapturePlan(tokens="last"), engine.run(LONG))
        with pytest.raises(ProbeError, match=said), recorder:
            recorder.step(step=0, **about)


def test_a_probe_of_an_earlier_step_and_an_unknown_stage_are_refused(engine: Any) -> None:
    rows = Rows(np.zeros(1, np.int32), np.zeros(1, np.int64))
    recorder = Recorder(CapturePlan(), engine.run(SHORT))
    with pytest.raises(ProbeError, match="earlier one"), recorder:
        old = recorder.step(phase="prefill", step=0, rows=rows)
        recorder.step(phase="decode", step=1, rows=rows)
        old("embed.out", torch.zeros(1, 6))
    recorder = Recorder(CapturePlan(stages=("moe.*",)), engine.run(SHORT))
    with pytest.raises(ConfigError, match="vocabulary"), recorder:
        recorder.step(phase="prefill", step=0, rows=rows)("atn.q", torch.zeros(1, 6), 0)
