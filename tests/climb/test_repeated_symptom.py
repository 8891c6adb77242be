"""A symptom that no stage explains is asked for on an independent prompt, and cleared only if it does not return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from parity.climb.conclude import conclude
from parity.climb.rung import RungResult, Status
from parity.climb.rungs import symptom
from parity.decode import DecodingVerdict
from parity.records import Finding
from parity.runner import Request

DIVERGED = {"verdict": "diverged", "rows_outside": 0, "sampler": "as_asked"}


def found(status: Status = Status.FOUND, findings: tuple[Finding, ...] = (), **numbers: Any) -> RungResult:
    return RungResult(2, "symptom", "q", status, "Diverged; logits.", findings, numbers={**DIVERGED, **numbers})


def zoom(**numbers: Any) -> RungResult:
    return RungResult(
        6, "zoom", "q", Status.RULED_OUT, "Every stage lies within.", numbers={"over_floor": 0.7, **numbers}
    )


@pytest.mark.parametrize(("again", "verdict"), [(False, "clean"), (True, "unresolved"), (None, "unresolved")])
def test_what_does_not_return_is_cleared_and_said(again: bool | None, verdict: str):
    numbers = {} if again is None else {"symptom_repeated": again}
    first = conclude({2: found(), 6: zoom(**numbers)}).finding
    assert first.verdict == verdict
    if verdict == "clean":
        assert "not on an independent one" in first.sentence
        assert first.not_excluded[0] == "Diverged; logits."


def bench(result: RungResult) -> Any:
    second = Request("second", (1, 2, 3))
    case = SimpleNamespace(second_request=lambda: (second, "given"), new_tokens=4)
    return SimpleNamespace(
        results={2: result}, sut="x", engine="engine", case=case, decoding_of=lambda request: request
    )


@pytest.mark.parametrize("verdict", list(DecodingVerdict))
def test_the_second_prompt_decides(monkeypatch: pytest.MonkeyPatch, verdict: DecodingVerdict):
    def compare(*, sut: str, oracle: Request, request: Request, tokens: int) -> Any:
        assert (sut, oracle.name, request.ids, tokens) == ("engine", "second", (1, 2, 3), 4)
        return SimpleNamespace(verdict=verdict, sentence="Said.")

    monkeypatch.setattr(symptom, "compare_decoding", compare)
    again = symptom.repeat_symptom(bench(found()))
    assert again is not None
    assert again["repeated"] is (verdict is DecodingVerdict.DIVERGED)
    assert "second (given): Said." in again["repetition"]


@pytest.mark.parametrize(
    "result",
    [
        found(Status.RULED_OUT),
        found(findings=(Finding("fault", "decode"),)),
        found(sampler="differs"),
        found(rows_outside=2),
        found(verdict="unresolved"),
    ],
    ids=["no symptom", "sampler found", "sampler", "rows outside", "unresolved"],
)
def test_what_a_second_prompt_cannot_clear_is_not_asked(result: RungResult):
    assert symptom.repeat_symptom(bench(result)) is None
