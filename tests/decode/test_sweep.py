"""The shortest prompt is bracketed, its ends are run again, and the oracle is the control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from parity.decode import compare_decoding, judge_symptom, shortest_prompt
from parity.decode.sweep import Tried
from parity.errors import UsageError

Make = Callable[..., Any]


def trying(shows: Callable[[int], bool], counted: list[int] | None = None) -> Callable[[int], Tried]:
    def run(length: int) -> Tried:
        if counted is not None:
            counted.append(length)
        return Tried(length, shows(length), "planted")

    return run


@pytest.mark.parametrize("step", [2, 3, 64, 65, 100, 127, 128])
def test_the_step_is_found_and_confirmed(step: int):
    counted: list[int] = []
    found = shortest_prompt(trying(lambda n: n >= step, counted), 128, symptom="divergence")
    assert found.shows == step
    assert found.clean == (step - 1 if step > 2 else None)
    assert found.confirmed
    assert found.monotone
    assert counted.count(step) == 2
    assert len(counted) <= 18


def test_a_symptom_that_comes_and_goes_is_said():
    found = shortest_prompt(trying(lambda n: 10 <= n < 40), 128, symptom="divergence")
    assert found.shows == 10
    assert not found.monotone
    assert "longer prompts of 128 ids are clean" in found.sentence


def test_an_end_that_comes_out_otherwise_is_said():
    seen: dict[int, int] = {}

    def once(length: int) -> bool:
        seen[length] = seen.get(length, 0) + 1
        return length >= 5 and seen[length] == 1

    found = shortest_prompt(trying(once), 16, symptom="loop")
    assert not found.confirmed
    assert "otherwise" in found.sentence


def test_nothing_to_shorten_and_misuse():
    found = shortest_prompt(trying(lambda n: False), 9, symptom="loop")
    assert (found.shows, found.clean) == (None, 9)
    with pytest.raises(UsageError, match="at least 2 ids"):
        shortest_prompt(trying(bool), 1, symptom="loop")


def test_the_symptom_is_the_suts_alone(recipe: Any, exact: Any, prompt: Make):
    asked = {"request": prompt(9), "tokens": 2, "emulation": recipe, "exact": exact}
    found = compare_decoding(sut=recipe, oracle=exact, **asked)
    loop, text = (5, 6, 7) * 80, tuple(n * n % 997 for n in range(240))
    ours, both = (replace(found, sut_ids=loop, oracle_ids=ids) for ids in (text, loop))
    assert judge_symptom(ours, "loop") == (True, "loop of period 3 from new token 0")
    assert judge_symptom(both, "loop") == (False, "the oracle loops too")
    assert judge_symptom(replace(found, sut_ids=text), "loop") == (False, "no loop")
    assert not judge_symptom(found, "divergence")[0]
    assert judge_symptom(found, "kl", kl=-1.0)[0]
    assert not judge_symptom(found, "kl", kl=100.0)[0]
    for name in ("kl", "text"):
        with pytest.raises(UsageError, match="one of divergence"):
            judge_symptom(found, name)
