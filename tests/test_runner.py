"""What is refused before a runner runs: options it does not have, ids that are no ids, schedules of nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import RunnerError, UsageError
from parity.registry import fit_options
from parity.runner import Request, Schedule, check_requests, open_runner, opened

MODEL = Path(__file__).resolve().parent.parent / "fixtures/models/moe-tiny"


@pytest.mark.parametrize("ids", [(1, 2), [1, 2], np.array([1, 2], np.int32), torch.tensor([1, 2]), iter((1, 2))])
def test_ids_of_any_integer_kind_become_python_integers(ids: Any):
    kept = Request("a", ids).ids
    assert kept == (1, 2)
    assert all(type(token) is int for token in kept)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ((1, 2.0), "2.0 at position 1"),
        ((np.float32(3),), "at position 0"),
        ((1, True), "True at position 1"),
        ((1, "2"), "'2' at position 1"),
        ((3, -1), "-1 at position 1"),
        ((None,), "None at position 0"),
        ("12", "'12'"),
        (7, "7"),
        ([[1, 2]], r"\[1, 2\] at position 0"),
    ],
)
def test_what_is_no_token_id_is_refused_with_its_place(ids: Any, found: str):
    with pytest.raises(UsageError, match=rf"request a: expected token ids.*{found}"):
        Request("a", ids)


@pytest.mark.parametrize(
    ("ids", "schedule", "new", "said"),
    [
        ((1, 80), Schedule(), 0, "among them 80 at position 1"),
        ((), Schedule(), 0, "more than 0 and at most 8 token ids.*found 0 ids"),
        ((1, 2), Schedule(decode=2), 0, "more than 2"),
        ((1,) * 9, Schedule(), 0, "found 9 ids"),
        ((1,) * 6, Schedule(), 3, "found 6 ids and 3 new ones"),
        ((1, 2), Schedule(chunk=0), 0, "chunk=0"),
        ((1, 2), Schedule(decode=-1), 0, "decode=-1"),
        ((1, 2), Schedule(chunk=1.5), 0, r"chunk=1.5"),  # type: ignore[arg-type]
        ((1, 2), Schedule(), -1, "new tokens -1"),
    ],
)
def test_what_a_model_cannot_run_is_refused(ids: Any, schedule: Schedule, new: int, said: str):
    with pytest.raises(UsageError, match=said):
        check_requests([Request("a", ids)], schedule, vocab=80, max_positions=8, new_tokens=new)


def test_the_longest_request_and_the_last_id_run():
    check_requests([Request("a", (79,) * 8)], Schedule(chunk=3, decode=7), vocab=80, max_positions=8)


def test_two_requests_of_one_name_are_refused():
    with pytest.raises(UsageError, match="a name of its own"):
        check_requests([Request("a", (1,)), Request("a", (2,))], Schedule(), vocab=80, max_positions=8)


@pytest.mark.parametrize("runner", ["triton", "hf", "recipe"])
def test_an_option_that_a_runner_does_not_have_is_refused_before_it_opens(runner: str, tmp_path: Path):
    with pytest.raises(UsageError, match=rf"runner {runner}, option colour: expected one of .*found 'colour'"):
        open_runner(f"{runner}:{tmp_path}", colour="red")


def test_a_misspelt_option_is_told_the_right_one(tmp_path: Path):
    with pytest.raises(UsageError, match="Did you mean dtype"):
        open_runner(f"hf:{tmp_path}", dtyp="float32")


def opener(model: str, *, count: int = 0, scale: float = 1.0, loud: bool = False, name: str | None = None) -> dict:
    return {"model": model, "count": count, "scale": scale, "loud": loud, "name": name}


def test_texts_become_what_the_runner_asks_for():
    asked = {"count": "3", "scale": "0.5", "loud": "true", "name": "7"}
    assert fit_options(opener, asked, place="x") == {"count": 3, "scale": 0.5, "loud": True, "name": "7"}


@pytest.mark.parametrize(("name", "value"), [("count", "x"), ("count", "1.5"), ("scale", "wide"), ("loud", "perhaps")])
def test_a_text_that_is_none_is_refused(name: str, value: str):
    with pytest.raises(UsageError, match=rf"x, option {name}: expected .*; found '{value}'"):
        fit_options(opener, {name: value}, place="x")


@pytest.mark.parametrize("order", ["x", 1.0, 99, -1, True])
def test_an_order_that_is_none_is_refused(order: Any):
    with pytest.raises(UsageError, match="order"):
        open_runner(f"recipe:{MODEL}", order=order)


@pytest.mark.parametrize("spec", ["parity.errors.nothing:x", "parity.errors.__doc__:x", "no.such.module:x"])
def test_a_runner_that_is_none_is_refused(spec: str):
    with pytest.raises(RunnerError):
        open_runner(spec)


class Holding:
    """A runner that holds an engine."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def open_holding(model: str) -> Holding:
    return Holding()


def open_plain(model: str) -> list[str]:
    """A runner that holds nothing has nothing to close."""
    return [model]


def test_a_runner_is_closed_at_the_end_of_its_with_after_an_error_too():
    with opened(f"{__name__}.open_holding:x") as kept:
        assert not kept.closed
    assert kept.closed == 1
    with pytest.raises(ZeroDivisionError), opened(f"{__name__}.open_holding:x") as kept:
        _ = 1 / 0
    assert kept.closed == 1
    with opened(f"{__name__}.open_plain:x") as plain:
        assert plain == ["x"]
