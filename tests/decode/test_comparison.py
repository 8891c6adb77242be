"""A healthy engine decodes alike; a wrong one diverges, in the phase in which it is wrong; near-ties are no fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from parity.decode import DecodingVerdict, compare_decoding
from parity.errors import RunnerError, UsageError
from parity.records import as_json
from parity.runner import Request
from parity.sampling import Sampling

Make = Callable[..., Any]


@pytest.fixture
def compare(recipe: Any, exact: Any) -> Make:
    def run(sut: Any, request: Request, tokens: int = 6, **asked: Any) -> Any:
        return compare_decoding(
            sut=sut, oracle=exact, request=request, tokens=tokens, **{"emulation": recipe, "exact": exact, **asked}
        )

    return run


def swapped(from_position: int) -> Any:
    """The largest logit changes places with the smallest from that position on."""

    def spoil(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        for row in torch.nonzero(position >= from_position).flatten().tolist():
            best, least = int(logits[row].argmax()), int(logits[row].argmin())
            logits[row, [best, least]] = logits[row, [least, best]]
        return logits

    return spoil


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_engine_is_cleared(compare: Make, recipe: Any, prompt: Make, seed: int):
    found = compare(recipe, prompt(19 + seed, seed))
    assert found.verdict in (DecodingVerdict.SAME, DecodingVerdict.NEAR_TIE), found.sentence
    assert found.noise["source"] == "emulation"
    assert found.starts is None
    assert not any(one.exceeds for one in found.excess)
    assert found.sampler.outcome == "as_asked"
    assert len(found.kl) == 19 + seed + 5
    assert [phase.positions for phase in found.phases] == [19 + seed, 5]
    assert as_json(found)["verdict"] == found.verdict.value


@pytest.mark.parametrize(("start", "phase"), [(4, "prefill"), (15, "decode")])
def test_wrong_logits_diverge_in_their_phase(compare: Make, engine: Make, prompt: Make, start: int, phase: str):
    found = compare(engine(spoil=swapped(start)), prompt(13))
    assert found.verdict is DecodingVerdict.DIVERGED
    assert (found.first_out, found.starts) == (start, phase)
    assert found.free is not None
    assert found.free.position == max(start, 12)
    assert len(found.free.oracle_best) == len(found.free.sut_best) == 5
    assert found.free.units > found.noise["limit"]
    assert found.sampler.outcome == "as_asked"


def test_a_near_tie_is_no_fault(engine: Make, exact: Any, prompt: Make):
    request = prompt(13)
    # The two largest logits of one decode step are made to tie in both engines, a hair apart in opposite order.
    pair = exact.logits([request])[-1].topk(2).indices.tolist()

    def tie(first: int, second: int) -> Any:
        def spoil(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
            for at in torch.nonzero(position == 12).flatten().tolist():
                top = logits[at].max() + 1
                logits[at, first], logits[at, second] = top + 1e-3, top
            return logits

        return spoil

    oracle, sut = engine(spoil=tie(*pair)), engine(spoil=tie(*reversed(pair)))
    found = compare_decoding(sut=sut, oracle=oracle, request=request, tokens=3, emulation=engine(), exact=exact)
    assert found.verdict is DecodingVerdict.NEAR_TIE, found.sentence
    assert found.free is not None
    assert found.free.near_tie
    assert abs(found.free.gap - 1e-3) < 1e-5


def test_without_a_unit_nothing_is_judged(compare: Make, engine: Make, prompt: Make):
    found = compare(engine(spoil=swapped(15)), prompt(13), emulation=None, exact=None)
    assert found.verdict is DecodingVerdict.UNRESOLVED
    assert found.noise["source"] == "measured"
    assert not found.noise["judges"]


def test_logits_that_are_not_finite_diverge(compare: Make, engine: Make, prompt: Make):
    def spoil(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        logits[position == 5] = torch.nan
        return logits

    found = compare(engine(spoil=spoil), prompt(13))
    assert (found.verdict, found.outside, found.starts) == (DecodingVerdict.DIVERGED, (5,), "prefill")


def test_an_early_end_is_a_parting(compare: Make, engine: Make, prompt: Make):
    found = compare(engine(stop=2), prompt(13))
    assert found.verdict is DecodingVerdict.UNRESOLVED
    assert found.free.sut is None
    assert found.free.token == 2


def test_logits_of_another_scale_diverge_though_every_token_agrees(compare: Make, engine: Make, prompt: Make):
    found = compare(engine(spoil=lambda logits, position: logits * 1.5), prompt(24), tokens=2)
    assert found.sut_ids == found.oracle_ids
    assert (found.verdict, found.starts) == (DecodingVerdict.DIVERGED, "prefill")
    (excess,) = found.excess
    assert excess.low > 2**0.5


@pytest.mark.parametrize(
    ("change", "asked", "match"),
    [
        ({}, {"tokens": 0}, "at least 1"),
        ({"ids": (1,)}, {}, "at least 2 ids"),
        ({"ids": (1, 80)}, {}, "80 at position 1"),
        ({}, {"sampling": Sampling(banned=(80,))}, "80 at position 0"),
    ],
)
def test_misuse_is_refused(compare: Make, recipe: Any, prompt: Make, change: Any, asked: Any, match: str):
    with pytest.raises(UsageError, match=match):
        compare(recipe, replace(prompt(13), **change), **asked)


@pytest.mark.parametrize(("change", "match"), [({"can": {"forward"}}, "no generate"), ({"stop": 0}, "found none")])
def test_an_engine_that_does_not_decode_is_refused(compare: Make, engine: Make, prompt: Make, change: Any, match: str):
    with pytest.raises(RunnerError, match=match):
        compare(engine(**change), prompt(13))
