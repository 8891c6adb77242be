"""Do filters keep what they name, by absolute position, and does nonsense in a plan or the environment raise?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.errors import ProbeError, UsageError
from parity.probes import CapturePlan, Recorder, admits, check_plan, plan_from_environment

LONG, SHORT = (5, 6, 7, 8, 9, 10, 11, 12, 13), (20, 21, 22)


def captured(engine: Any, plan: CapturePlan, *requests: tuple[int, ...], **how: Any) -> Any:
    recorder = Recorder(plan, engine.run(*requests))
    with recorder:
        engine.forward(recorder, recorder.run, **how)
    return recorder.trace()


def rows_of(trace: Any, stage: str, layer: int | None = None) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for capture in trace.select(stage=stage, layer=layer):
        found |= set(zip(capture.rows.request.tolist(), capture.rows.position.tolist(), strict=True))
    return found


@pytest.mark.parametrize("chunk", [2, 3, 4, 9])
def test_last_is_the_last_of_the_prompt_and_never_of_a_chunk(engine: Any, chunk: int) -> None:
    trace = captured(engine, CapturePlan(tokens="last"), LONG, SHORT, chunk=chunk)
    for stage, layer in (("embed.out", None), ("moe.gate", 1), ("logits", None)):
        assert rows_of(trace, stage, layer) == {(0, 8), (1, 2)}
    # The planted mistake: a filter by place in the tensor would give another set as soon as there are chunks.
    by_place = {(0, min(start + chunk, 9) - 1) for start in range(0, 9, chunk)}
    assert chunk == 9 or by_place != {(0, 8)}


def test_last_keeps_every_decode_step(engine: Any) -> None:
    trace = captured(engine, CapturePlan(tokens="last"), LONG, SHORT, decode=2)
    assert rows_of(trace, "embed.out") == {(0, 6), (0, 7), (0, 8), (1, 0), (1, 1), (1, 2)}


@pytest.mark.parametrize(("tokens", "kept"), [("3:5", {3, 4}), ("7:", {7, 8}), (":2", {0, 1}), ("8:99", {8})])
def test_ranges_are_absolute(engine: Any, tokens: str, kept: set[int]) -> None:
    trace = captured(engine, CapturePlan(tokens=tokens), LONG, chunk=2)
    assert {position for _, position in rows_of(trace, "moe.gate", 0)} == kept
    assert {position for _, position in rows_of(trace, "resid.out", 1)} == kept


def test_filtered_expert_rows_keep_their_place_in_the_launch(engine: Any) -> None:
    whole = captured(engine, CapturePlan(), LONG, SHORT, chunk=9).select(stage="moe.gate", layer=1)[0]
    trace = captured(engine, CapturePlan(tokens="2:6"), LONG, SHORT, chunk=9)
    part = trace.select(stage="moe.gate", layer=1)[0]
    row = part.geometry["row"]
    assert len(row) == 2 * 5
    for name in ("request", "position", "slot", "expert"):
        assert np.array_equal(getattr(part.rows, name), getattr(whole.rows, name)[row])
    # Geometry still describes the whole launch, so a row's number inside its expert can be had from it.
    assert part.geometry["expert_offsets"] == whole.geometry["expert_offsets"]
    assert part.geometry["expert_offsets"][-1] == len(whole.rows)
    inside = row - np.asarray(part.geometry["expert_offsets"])[part.rows.expert]
    assert (inside >= 0).all()
    assert "row" not in whole.geometry
    assert part.launch["covers"] == {"rows": 64}


def test_layers_and_stages(engine: Any) -> None:
    names = {c.name for c in captured(engine, CapturePlan(layers=(1,)), LONG).captures}
    assert names == {"L01.attn.norm", "L01.moe.topk_ids", "L01.moe.gate", "L01.resid.out"}
    trace = captured(engine, CapturePlan(layers=(0,), stages=("moe.*", "logits")), LONG)
    assert {c.name for c in trace.captures} == {"L00.moe.topk_ids", "L00.moe.gate", "logits"}
    assert trace.run.declared == ((0, "moe.topk_ids"), (0, "moe.gate"), (None, "logits"))
    assert not admits(CapturePlan(layers=(0,), stages=("*",)), None, "logits")


def test_wants_is_what_the_plan_asks_for(engine: Any) -> None:
    recorder = Recorder(CapturePlan(layers=(1,), stages=("moe.*",)), engine.run(LONG))
    with recorder:
        engine.forward(recorder, recorder.run)
        probe = recorder._step
        assert probe is not None
        assert probe.wants("moe.gate", 1)
        assert not probe.wants("moe.gate", 0)
        assert not probe.wants("attn.norm", 1)


def test_a_range_beyond_every_position_is_no_success(engine: Any) -> None:
    with pytest.raises(ProbeError, match="fits no position"):
        captured(engine, CapturePlan(tokens="100:200"), LONG)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (CapturePlan(tokens="first"), "CapturePlan.tokens"),
        (CapturePlan(tokens="5:5"), "a < b"),
        (CapturePlan(tokens="-1:5"), "a < b"),
        (CapturePlan(tokens=":"), "a < b"),
        (CapturePlan(tokens="3"), "0:128"),
        (CapturePlan(stages=("moe.gaet",)), "Did you mean moe.gate"),
        (CapturePlan(stages=("xyz.*",)), "patterns that fit"),
        (CapturePlan(layers=(-1,)), "layers from 0"),
        (CapturePlan(mode="mean"), "tensor or stats"),
    ],
)
def test_nonsense_in_a_plan_is_refused(plan: CapturePlan, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_plan(plan)


def test_the_environment_is_read() -> None:
    assert plan_from_environment({}) is None
    assert plan_from_environment({"PARITY_CAPTURE": "", "PARITY_LAYERS": "x"}) is None
    plan = plan_from_environment(
        {
            "PARITY_CAPTURE": "out/run",
            "PARITY_LAYERS": "0,15, 29",
            "PARITY_STAGES": "moe.*,attn.q",
            "PARITY_TOKENS": "10:20",
            "PARITY_MODE": "stats",
        }
    )
    assert plan == CapturePlan((0, 15, 29), ("moe.*", "attn.q"), "10:20", "stats", Path("out/run"))
    assert plan_from_environment({"PARITY_CAPTURE": "d"}) == CapturePlan(out=Path("d"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARITY_LAYERS", "all"),
        ("PARITY_LAYERS", "1,,2"),
        ("PARITY_LAYERS", "-1"),
        ("PARITY_LAYERS", "0-3"),
        ("PARITY_STAGES", "moe"),
        ("PARITY_STAGES", "moe.*,"),
        ("PARITY_TOKENS", "ten"),
        ("PARITY_MODE", "tensors"),
        ("PARITY_LAYER", "3"),
    ],
)
def test_nonsense_in_the_environment_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"environment variable {name}:"):
        plan_from_environment({"PARITY_CAPTURE": "d", name: value})
