"""A sampler that does not do what it was asked is found by its own logits, and a healthy one is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.decode import DecodingVerdict, check_sampler, compare_decoding
from parity.decode.side import Forced
from parity.runner import Request, open_runner
from parity.sampling import Sampling
from parity_kernels.faults.decoding import banned_token, penalty_cliff

Make = Callable[..., Any]
FLAT = 0.01
"""Flattens the random model's logits, which name one token with certainty, so that a penalty of some units matters."""


def forced(rows: torch.Tensor, chosen: list[int], run: Any = None) -> Forced:
    return Forced((1, 2, *chosen), 2, torch.cat((torch.zeros(1, rows.shape[1]), rows)), run)


ROWS = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))


def greedy(rows: torch.Tensor = ROWS) -> list[int]:
    return rows.argmax(1).tolist()


def test_greedy_choices_are_as_asked():
    found = check_sampler(forced(ROWS, greedy()))
    assert (found.outcome, found.odd, found.causes) == ("as_asked", (), ())
    assert "min-p" in found.sentence


def test_what_is_in_force_where_nothing_is_asked_contradicts_no_call_that_asks_for_more():
    token = greedy()[7]
    without = ROWS.clone()
    without[:, token] = -torch.inf
    stated = {"greedy": True, "suppress_tokens": [], "temperature": 0.0, "presence_penalty": 0.0, "top_p": 1.0}
    asked = Sampling(banned=(token,))
    assert check_sampler(forced(ROWS, greedy(without)), asked=asked, declared=stated).outcome == "as_asked"
    fixed = check_sampler(forced(ROWS, greedy(without)), asked=asked, declared={**stated, "presence_penalty": 0.5})
    assert "it declares presence_penalty 0.5, asked 0.0" in fixed.causes


def test_a_banned_token_that_comes_out_is_named():
    token = greedy()[7]
    found = check_sampler(forced(ROWS, greedy()), asked=Sampling(banned=(token,)))
    assert found.outcome == "differs"
    assert found.banned_emitted[0] == (greedy().index(token), token)
    assert not found.odd
    assert "mask of banned tokens" in found.sentence
    declared = check_sampler(forced(ROWS, greedy()), declared={"suppress_tokens": [token]})
    assert declared.outcome == "differs"


def test_a_mask_that_was_asked_for_is_no_fault():
    rows = ROWS.clone()
    rows[:, greedy()[7]] = float("-inf")
    assert check_sampler(forced(ROWS, greedy(rows)), asked=Sampling(banned=(greedy()[7],))).outcome == "as_asked"
    unasked = check_sampler(forced(ROWS, greedy(rows)))
    assert unasked.outcome == "differs"
    assert unasked.avoided == (greedy()[7],)
    assert "mask that was not asked for" in unasked.sentence


def test_sampling_where_greedy_was_asked_is_told_from_a_penalty():
    chosen = greedy()
    chosen[5] = int(ROWS[5].argsort()[-2])
    chosen[9] = int(ROWS[9].argsort()[-4])
    found = check_sampler(forced(ROWS, chosen), repeated=greedy())
    assert found.outcome == "differs"
    assert "samples" in found.sentence
    assert [one.token for one in found.odd] == [5, 9]


def test_a_choice_inside_the_engines_own_moves_is_no_sampler_fault():
    chosen = greedy()
    second = int(ROWS[5].argsort()[-2])
    gap = float(ROWS[5].max() - ROWS[5, second])
    chosen[5] = second
    other = ROWS.clone()
    other[5] += gap
    assert check_sampler(forced(ROWS, chosen), other_way=other).outcome == "as_asked"
    other[5] -= 0.6 * gap
    assert check_sampler(forced(ROWS, chosen), other_way=other).outcome == "unresolved" or gap == 0


@pytest.mark.parametrize("penalty", [0.5, 3.0])
def test_a_penalty_that_both_were_asked_to_apply_is_no_fault(penalty: float):
    rows, chosen = ROWS.clone(), []
    for row in rows:
        scores = row.clone()
        scores[sorted(set(chosen))] -= penalty
        chosen.append(int(scores.argmax()))
    assert check_sampler(forced(rows, chosen), asked=Sampling(presence_penalty=penalty)).outcome == "as_asked"
    found = check_sampler(forced(rows, chosen))
    assert found.outcome == "differs"
    (presence,) = [one for one in found.penalties if one.kind == "presence"]
    assert presence.low <= penalty <= presence.high
    assert not presence.explains_without


def test_a_planted_penalty_is_found_through_an_engine(engine: Make, recipe: Any, exact: Any, prompt: Make):
    def choose(row: torch.Tensor, ids: list[int], start: int) -> int:
        row = row.clone()
        row[sorted(set(ids[start:]))] -= 2.5
        return int(row.argmax())

    def flat(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return logits * FLAT

    asked = {"request": prompt(9), "tokens": 6, "emulation": engine(spoil=flat), "exact": engine(spoil=flat)}
    healthy = compare_decoding(sut=engine(spoil=flat), oracle=engine(spoil=flat), **asked)
    assert healthy.verdict is DecodingVerdict.SAME, healthy.sentence
    found = compare_decoding(sut=engine(spoil=flat, choose=choose), oracle=engine(spoil=flat), **asked)
    assert found.verdict is DecodingVerdict.DIVERGED
    assert found.sampler.outcome == "differs"
    (presence,) = [one for one in found.sampler.penalties if one.kind == "presence"]
    assert presence.low <= 2.5 <= presence.high
    assert found.starts is None  # nothing is wrong with the logits


def test_the_shipped_sampler_faults_are_found_in_the_engine(fp8_model: Path, recipe: Any, exact: Any):
    request = Request("p", tuple(range(4)))
    (repeated, *_) = recipe.generate(request, max_new_tokens=1).ids
    asked = {"request": request, "tokens": 2, "oracle": exact, "emulation": recipe}
    spec = f"triton:{fp8_model}"
    healthy = compare_decoding(sut=open_runner(spec), **asked)
    assert healthy.verdict in (DecodingVerdict.SAME, DecodingVerdict.NEAR_TIE), healthy.sentence
    assert healthy.sampler.outcome == "as_asked"
    banned = compare_decoding(sut=open_runner(spec, fault=banned_token(repeated)), **asked)
    assert banned.verdict is DecodingVerdict.DIVERGED
    assert banned.sampler.banned_emitted[0] == (0, repeated)
    cliff = compare_decoding(sut=open_runner(spec, fault=penalty_cliff(1000.0)), **asked)
    assert cliff.verdict is DecodingVerdict.DIVERGED
    assert "presence_penalty 1000" in cliff.sampler.sentence
    assert cliff.sampler.odd
    (presence,) = [one for one in cliff.sampler.penalties if one.kind == "presence"]
    assert presence.low <= 1000 <= presence.high
