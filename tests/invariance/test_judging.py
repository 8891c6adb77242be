"""What a difference comes to where no bits are promised: two floors judge it, and without a floor nothing does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from parity.invariance import Outcome, Subject, check_decode
from parity.invariance.judging import only_requests
from parity.records import Comparison, Summary, Verdict
from parity.runner import CapturePlan, Request
from parity_kernels.forward.runner import TritonRunner


def off(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, scale, **rest: op(*args, scale=scale * 1.1, **rest)


def unpromised(planted: Callable[..., Subject]) -> Subject:
    subject = planted("attention_decode", off)
    subject.info = replace(subject.info, promises={})
    return subject


def test_a_difference_without_promise_and_floor_is_measured_and_not_judged(planted: Callable[..., Subject]):
    found = check_decode(unpromised(planted))
    assert found.outcome is Outcome.UNJUDGED
    assert found.where == "L00.attn.context"
    assert found.numbers["worst_rel_l2"] > 0


@pytest.mark.parametrize(("over", "outcome"), [(1.5, Outcome.HELD), (2.5, Outcome.BROKEN), (None, Outcome.UNJUDGED)])
def test_two_correct_arms_may_lie_two_floors_apart(
    over: float | None, outcome: Outcome, planted: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
):
    def compare(**_: Any) -> Summary:
        verdict = Verdict.NO_FLOOR if over is None else Verdict.EXCEEDS_FLOOR
        one = Comparison("L01.moe.act", 1, "moe.act", "decode", verdict, over_floor=over, reason="measured")
        return Summary(("L01.moe.act",), (one,))

    monkeypatch.setattr("parity.invariance.judging.compare_traces", compare)
    subject = unpromised(planted)
    subject.floor = object()  # type: ignore[assignment]  # compare_traces alone looks into it
    found = check_decode(subject)
    assert found.outcome is outcome
    assert outcome is not Outcome.BROKEN or found.where == "L01.moe.act"


def test_a_trace_is_cut_down_to_some_of_its_requests(fp8_runner: TritonRunner):
    two = [Request("a", (1, 2, 3)), Request("b", (4, 5))]
    both = fp8_runner.forward(two, capture=CapturePlan(stages=("logits", "moe.gate")))
    alone = only_requests(both, {"b"})
    assert alone.run.request_names == ("b",)
    assert alone.run.requests == ((4, 5),)
    assert {len(c.rows) for c in alone.captures} == {2, 4}
    assert {int(r) for c in alone.captures for r in c.rows.request} == {0}
    assert only_requests(both, {"a", "b"}) is both
