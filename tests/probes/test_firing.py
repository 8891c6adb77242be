"""Is a probe that stays silent, fires twice or was never declared found out, and named?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.errors import ProbeError
from parity.probes import CapturePlan, Recorder
from parity.trace import open_trace

IDS = (5, 6, 7, 8, 9)


def run_with(engine: Any, plan: CapturePlan, **how: Any) -> None:
    recorder = Recorder(plan, engine.run(IDS))
    with recorder:
        engine.forward(recorder, recorder.run, **how)


def test_a_healthy_engine_passes(engine: Any) -> None:
    run_with(engine, CapturePlan(), decode=2)


@pytest.mark.parametrize("mode", ["tensor", "stats"])
@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ({"lost": [(1, "moe.gate")]}, "silent: L01.moe.gate"),
        ({"lost": [(None, "logits")]}, "silent: logits"),
        ({"twice": [(0, "resid.out")]}, "fired more than once: L00.resid.out .prefill step 0 chunk 0, 2 times"),
        ({"extra": [(1, "resid.mid")]}, "without being declared: L01.resid.mid"),
    ],
)
def test_defects_are_named(make_engine: Callable[..., Any], defect: dict[str, Any], said: str, mode: str) -> None:
    with pytest.raises(ProbeError, match=said):
        run_with(make_engine(**defect), CapturePlan(mode=mode))


def test_a_site_that_the_filter_leaves_out_may_stay_silent(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(lost=[(1, "moe.gate")], extra=[(1, "resid.mid")])
    run_with(engine, CapturePlan(layers=(0,)))
    with pytest.raises(ProbeError, match="silent"):
        run_with(engine, CapturePlan(layers=(1,), stages=("moe.*",)))


def test_a_site_must_fire_in_every_step_and_with_every_token_filter(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(lost=[(0, "attn.norm")])
    for tokens in ("all", "last", "0:2"):
        with pytest.raises(ProbeError, match=r"L00\.attn\.norm \(prefill step 0 chunk 0\)"):
            run_with(engine, CapturePlan(tokens=tokens), chunk=2)


def test_silence_in_one_step_only_is_found(engine: Any) -> None:
    recorder = Recorder(CapturePlan(), engine.run(IDS))
    step = recorder.step

    def forget_later(**about: Any) -> Any:
        probe = step(**about)
        engine.lost = {(0, "moe.gate")} if about["phase"] == "decode" and about["step"] == 2 else set()
        return probe

    recorder.step = forget_later  # type: ignore[method-assign]
    with pytest.raises(ProbeError, match=r"L00\.moe\.gate \(decode step 2"), recorder:
        engine.forward(recorder, recorder.run, decode=3)


def test_a_run_without_a_step_is_no_success(engine: Any) -> None:
    with pytest.raises(ProbeError, match="no step"), Recorder(CapturePlan(), engine.run(IDS)):
        pass


def test_a_trace_that_failed_the_check_is_incomplete(make_engine: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ProbeError):
        run_with(make_engine(lost=[(1, "moe.gate")]), CapturePlan(out=tmp_path / "t"))
    trace = open_trace(tmp_path / "t")
    assert not trace.complete
    assert trace.captures
