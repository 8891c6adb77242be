"""How often are the engines run? Once each for what can be kept; the oracle not at all for a second engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from parity.decode import compare_decoding, decode_reference, examine_sampler
from parity.decode.side import force
from parity.errors import UsageError
from parity.runner import Generation, Request
from tests.decode.conftest import Engine

Make = Callable[..., Any]


class Counting(Engine):
    """An engine that counts what it is asked; of its own generation every step counts as none of its forwards."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.forwards = self.generations = 0

    @property
    def calls(self) -> tuple[int, int]:
        return self.generations, self.forwards

    def forward(self, *given: Any, **more: Any) -> Any:
        self.forwards += 1
        return super().forward(*given, **more)

    def generate(self, request: Request, *, max_new_tokens: int, **rest: Any) -> Generation:
        before = self.forwards
        done = super().generate(request, max_new_tokens=max_new_tokens, **rest)
        self.generations, self.forwards = self.generations + 1, before
        return done


@pytest.fixture
def engines(recipe: Any, exact: Any) -> tuple[Counting, Counting, Counting]:
    """oracle, emulation, SUT"""
    return Counting(exact), Counting(recipe), Counting(recipe)


def test_every_engine_decodes_a_prompt_once(engines: tuple[Counting, ...], prompt: Make):
    oracle, near, sut = engines
    found = compare_decoding(sut=sut, oracle=oracle, request=prompt(9), tokens=3, emulation=near)
    assert (oracle.calls, near.calls) == ((1, 1), (0, 1))
    # On its own text as well, where that is another one.
    assert sut.calls == (1, 1 if found.sut_ids == found.oracle_ids else 2)


def test_one_reference_serves_any_number_of_engines(engines: tuple[Counting, ...], prompt: Make):
    oracle, near, sut = engines
    request = prompt(9)
    reference = decode_reference(oracle, request, 3, emulation=near)
    spent = oracle.calls, near.calls
    assert spent == ((1, 1), (0, 1))
    first = compare_decoding(sut=sut, oracle=reference, request=request, tokens=3)
    second = compare_decoding(sut=Counting(sut.inner), oracle=reference, request=request, tokens=3)
    assert (oracle.calls, near.calls) == spent
    assert (first.verdict, first.sentence) == (second.verdict, second.sentence)


def test_what_is_known_already_is_not_run_again(engines: tuple[Counting, ...], prompt: Make):
    oracle, _, sut = engines
    request = prompt(9)
    ids = oracle.generate(request, max_new_tokens=3).ids
    reference = decode_reference(oracle, request, 3, continuation=ids)
    assert oracle.calls == (1, 1)
    compare_decoding(sut=sut, oracle=reference, request=request, tokens=3, sut_ids=ids)
    assert sut.calls == (0, 1)


def test_a_sampler_alone_needs_no_oracle_and_two_more_runs_where_a_choice_is_odd(
    engines: tuple[Counting, ...], recipe: Any, prompt: Make
):
    sut = engines[2]
    assert examine_sampler(sut, prompt(9), 3).outcome == "as_asked"
    assert sut.calls == (1, 1)
    second = Counting(recipe, choose=lambda row, ids, start: int(row.topk(2).indices[1]))
    assert examine_sampler(second, prompt(9), 3).outcome == "differs"
    assert second.calls == (2, 2)


def test_a_reference_of_another_prompt_is_refused(engines: tuple[Counting, ...], prompt: Make):
    oracle, _, sut = engines
    reference = decode_reference(oracle, prompt(9), 2)
    for request, tokens in ((prompt(9, 1), 2), (prompt(9), 3)):
        with pytest.raises(UsageError, match="stored reference"):
            compare_decoding(sut=sut, oracle=reference, request=request, tokens=tokens)
    assert sut.calls == (0, 0)


class Showing(Counting):
    """Shows the logits that each new id was chosen from."""

    def generate(self, request: Request, *, max_new_tokens: int, **rest: Any) -> Generation:
        made = super().generate(request, max_new_tokens=max_new_tokens, **rest)
        forced = force(self.inner, request, made.ids)
        return replace(made, logits=forced.choices)


def test_an_engine_that_shows_what_it_chose_from_is_not_run_on_its_own_text(
    engines: tuple[Counting, ...], recipe: Any, prompt: Make
):
    oracle, near, _ = engines
    request = prompt(9)
    second = Showing(recipe, choose=lambda row, ids, start: int(row.topk(2).indices[1]))
    found = compare_decoding(sut=second, oracle=oracle, request=request, tokens=3, emulation=near)
    assert found.sut_ids != found.oracle_ids
    assert found.sampler.outcome == "differs", "what it shows contradicts what it chose"
    first = Showing(recipe)
    other = compare_decoding(sut=first, oracle=oracle, request=prompt(9, 1), tokens=3, emulation=near)
    assert other.sampler.outcome == "as_asked"
    assert first.calls == (1, 1), "its logits on the oracle's text are all that was asked for besides"


@pytest.mark.parametrize("kind", ["exact", "recipe"])
def test_an_oracle_that_can_be_watched_feeds_its_prompt_once_and_gives_the_same_bits(
    kind: str, prompt: Make, request: pytest.FixtureRequest
):
    oracle = request.getfixturevalue(kind)
    fed = prompt(9)
    apart = force(oracle, fed, oracle.generate(fed, max_new_tokens=4).ids)
    steps: list[str] = []
    oracle.on_step = lambda what, done, total: steps.append(what)
    try:
        once = decode_reference(oracle, fed, 4).forced
    finally:
        oracle.on_step = None
    assert steps == ["generate"] * 4  # the prompt, and three of the four new ids
    assert once.ids == apart.ids
    assert torch.equal(once.logits, apart.logits)
    assert once.run == apart.run
