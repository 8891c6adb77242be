"""Logits that leave the emulation's noise on one prompt have to do so on another; what needs none has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from parity.decode import DecodingVerdict, compare_decoding, decode_reference
from parity.decode.second import diverges_by_logits_alone, exchange_halves, further_prompts
from parity.records import as_json
from parity.runner import Request

Make = Callable[..., Any]


def moved_as_by_a_router(first: int) -> Any:
    """The first row of the prompt whose first id it is moves as a whole, a hundred times as far as noise does; the
    others stay: a near-tie that this prompt has, and no other."""

    def spoil(logits: torch.Tensor, position: torch.Tensor, ids: tuple[int, ...]) -> torch.Tensor:
        if ids[0] == first and len(logits):
            best = logits[0].topk(2).indices.tolist()
            logits[0, best] = logits[0, best[::-1]]
            logits[0] += torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0))
        return logits

    return spoil


@pytest.fixture
def by_ids(engine: Make) -> Make:
    """An engine whose fault knows which ids it is fed."""

    def make(spoil: Any) -> Any:
        one = engine()
        inner = one.forward

        def forward(requests: Any, **rest: Any) -> Any:
            one.spoil = lambda logits, position: spoil(logits, position, requests[0].ids)
            return inner(requests, **rest)

        one.forward = forward
        one.spoil = lambda logits, position: logits
        return one

    return make


def test_what_one_prompt_alone_shows_is_unresolved(by_ids: Make, recipe: Any, exact: Any, prompt: Make):
    request = prompt(24)
    sut = by_ids(moved_as_by_a_router(request.ids[0]))
    heard: list[str] = []
    found = compare_decoding(
        sut=sut, oracle=exact, request=request, tokens=3, emulation=recipe, exact=exact, tell=heard.append
    )
    assert found.verdict is DecodingVerdict.UNRESOLVED
    assert found.repeated is False
    assert "halves exchanged; " in found.sentence
    assert "first third last" in found.sentence
    assert sum("halves exchanged" in one for one in heard) == sum("third last" in one for one in heard) > 0
    assert as_json(found)["repeated"] is False


@pytest.mark.parametrize("length", [2, 3, 13, 40])
def test_what_every_prompt_shows_is_a_divergence(engine: Make, recipe: Any, exact: Any, prompt: Make, length: int):
    def spoil(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        best, least = logits.argmax(1, keepdim=True), logits.argmin(1, keepdim=True)
        high, low = logits.gather(1, best), logits.gather(1, least)
        return logits.scatter(1, best, low).scatter(1, least, high)

    request = prompt(length)
    found = compare_decoding(
        sut=engine(spoil=spoil), oracle=exact, request=request, tokens=3, emulation=recipe, exact=exact
    )
    assert found.verdict is DecodingVerdict.DIVERGED
    assert found.repeated is True
    assert found.sentence.endswith(f"So do they on another prompt ({request.name}, halves exchanged).")


def test_the_only_other_prompt_is_the_one_given(by_ids: Make, recipe: Any, exact: Any, prompt: Make):
    request, second = prompt(24), replace(prompt(24, 1), name="mine")
    found = compare_decoding(
        sut=by_ids(moved_as_by_a_router(request.ids[0])), oracle=exact, request=request, tokens=3, emulation=recipe,
        exact=exact, second=second,
    )  # fmt: skip
    assert found.verdict is DecodingVerdict.UNRESOLVED
    assert "(mine)" in found.sentence


def test_a_row_that_is_not_finite_needs_no_other_prompt(engine: Make, recipe: Any, exact: Any, prompt: Make):
    def spoil(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        logits[position == 5, 7] = float("nan")
        return logits

    found = compare_decoding(
        sut=engine(spoil=spoil), oracle=exact, request=prompt(13), tokens=3, emulation=recipe, exact=exact
    )
    assert found.verdict is DecodingVerdict.DIVERGED
    assert found.repeated is None
    assert not diverges_by_logits_alone(found)


def test_of_a_stored_reference_there_is_one_prompt(by_ids: Make, recipe: Any, exact: Any, prompt: Make):
    request = prompt(24)
    reference = decode_reference(exact, request, 3, emulation=recipe)
    found = compare_decoding(
        sut=by_ids(moved_as_by_a_router(request.ids[0])), oracle=reference, request=request, tokens=3
    )
    assert found.verdict is DecodingVerdict.DIVERGED
    assert found.repeated is None


def test_other_prompts_hold_the_same_ids_and_are_others():
    request = Request("p", (1, 2, 3, 4, 5, 6, 7))
    assert [one.ids for one in further_prompts(request)] == [(4, 5, 6, 7, 1, 2, 3), (3, 4, 5, 6, 7, 1, 2)]
    assert exchange_halves(request).ids == further_prompts(request)[0].ids
    assert [one.ids for one in further_prompts(Request("p", (1, 2)))] == [(2, 1)]
    assert further_prompts(Request("p", (4,))) == ()
    assert further_prompts(Request("p", (4, 4, 4))) == ()
