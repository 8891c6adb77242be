"""A sampler that draws otherwise than asked is told from its tokens; one that does what it is asked is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from parity.decode import check_draws, compare_sampled
from parity.decode.side import Forced
from parity.errors import RunnerError, UsageError
from parity.sampling import Sampling
from parity_oracles.sampling import choose

Make = Callable[..., Any]
VOCAB, TOKENS, SEEDS = 60, 24, 12
ASKED = Sampling(temperature=0.8, top_k=40, top_p=0.95, presence_penalty=0.3)


def texts(
    applied: Sampling, *, seeds: int = SEEDS, sharp: float = 1.5, tokens: int = TOKENS, one_seed: bool = False
) -> list[Forced]:
    """Continuations drawn under `applied` from random logits that follow from the token before."""
    table = sharp * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(7))
    found = []
    for seed in range(seeds):
        ids = [1, 2]
        for _ in range(tokens):
            drawn = applied.with_seed(0 if one_seed else seed)
            ids.append(choose(table[ids[-1]], ids, prompt=2, sampling=drawn))
        found.append(Forced(tuple(ids), 2, table[ids[:-1]], None))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("sharp", [0.2, 1.5, 6.0])
def test_a_sampler_that_does_what_it_is_asked_is_cleared(sharp: float):
    for asked in (ASKED, Sampling(temperature=1.0), Sampling(temperature=1.3, min_p=0.05, repetition_penalty=1.2)):
        found = check_draws(texts(asked, sharp=sharp), asked, stated=asked.settings())
        assert (found.outcome, found.violations, found.departures) == ("as_asked", (), ()), found.sentence


def test_no_false_alarm_in_many_runs():
    # 40 runs at 1e-3 each: one alarm has a chance of 4 %, two of 0.1 %.
    alarms = 0
    for n in range(40):
        table = (0.3 + n % 5) * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(n))
        asked = Sampling(temperature=0.5 + n % 3 / 2, top_k=(0, 5, 30)[n % 3], seed=n)
        own = []
        for seed in range(10):
            ids = [1, 2]
            for _ in range(12):
                ids.append(choose(table[ids[-1]], ids, prompt=2, sampling=asked.with_seed(n * 100 + seed)))
            own.append(Forced(tuple(ids), 2, table[ids[:-1]], None))  # type: ignore[arg-type]
        alarms += check_draws(own, asked).outcome != "as_asked"
    assert alarms <= 1


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"temperature": 0.4}, "temperature"),
        ({"temperature": 1.6}, "temperature"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"frequency_penalty": 3.0}, "frequency_penalty"),
        ({"repetition_penalty": 3.0}, "repetition_penalty"),
        ({"top_k": 0, "top_p": 1.0}, "top_p"),
        ({"top_k": 3}, "top_k"),
        ({"top_p": 0.4}, "top_p"),
        ({"min_p": 0.4}, "min_p"),
    ],
    ids=str,
)
def test_another_setting_than_asked_is_found(change: dict[str, Any], setting: str):
    asked = replace(ASKED, temperature=1.0)
    found = check_draws(texts(replace(asked, **change), seeds=24), asked)
    assert found.outcome in ("differs", "unresolved") if setting == "top_p" else "differs"
    names = {one.setting for one in found.departures} | {name for *_, name in found.violations}
    assert setting in names, found.sentence
    if setting == "temperature":
        estimate, low, high = found.estimates["temperature"]
        assert low <= change["temperature"] * 1.1
        assert high >= change["temperature"] * 0.9
        assert low < estimate < high


def test_a_cut_that_is_not_applied_differs_once_the_logits_are_known_to_stand():
    own = texts(replace(ASKED, top_k=0, top_p=1.0, temperature=2.0), seeds=24)
    still = [torch.zeros(TOKENS) for _ in own]
    found = check_draws(own, replace(ASKED, temperature=2.0), moves=still)
    assert found.outcome == "differs"
    assert {name for *_, name in found.violations} <= {"top_k", "top_p"}
    # Were the logits known to move by more than the gap, it would be no violation.
    moved = check_draws(own, replace(ASKED, temperature=2.0), moves=[torch.full((TOKENS,), 50.0) for _ in own])
    assert moved.violations == ()


def test_a_banned_token_that_is_drawn():
    own = texts(Sampling(temperature=1.0))
    found = check_draws(own, Sampling(temperature=1.0, banned=(own[0].ids[5],)), moves=[torch.zeros(TOKENS)] * SEEDS)
    assert found.outcome == "differs"
    assert found.violations[0][1:] == (3, own[0].ids[5], "banned")


def test_what_is_declared_and_the_seed():
    asked = Sampling(temperature=1.0)
    own = texts(asked)
    said = check_draws(own, asked, stated={**asked.settings(), "temperature": 0.7})
    assert said.outcome == "differs"
    assert "declares temperature 0.7" in said.sentence
    again = check_draws(own, asked, again=(1,) * TOKENS)
    assert again.departures[0].setting == "seed"
    fixed = check_draws(texts(asked, one_seed=True), asked)
    assert "seed" in {one.setting for one in fixed.departures}
    # Sharp logits may well give every seed the same tokens.
    assert check_draws(texts(asked, one_seed=True, sharp=90.0), asked).outcome == "as_asked"


@pytest.mark.parametrize("seeds", [0, 1, 9])
def test_few_seeds_conclude_nothing(seeds: int):
    asked = Sampling(temperature=1.0)
    found = check_draws(texts(replace(asked, temperature=9.0), seeds=seeds), asked)
    assert found.outcome == "refused"
    assert "10 are needed" in found.sentence


class Sampler:
    """A runner whose logits are flattened and whose sampler applies `applied` over what is asked."""

    def __init__(self, inner: Any, **applied: Any) -> None:
        self.inner, self.applied = inner, applied

    def describe(self) -> Any:
        return self.inner.describe()

    def forward(self, requests: Any, *, schedule: Any, capture: Any) -> Any:
        trace = self.inner.forward(requests, schedule=schedule, capture=capture)
        for one in trace.select(stage="logits"):
            trace.tensor(one).mul_(0.05)
        return trace

    def generate(self, request: Any, *, max_new_tokens: int, sampling: Any) -> Any:
        hotter = replace(sampling, temperature=sampling.temperature / 0.05)
        made = self.inner.generate(request, max_new_tokens=max_new_tokens, sampling=replace(hotter, **self.applied))
        return replace(made, sampler={})


def sampler(inner: Any, **applied: Any) -> Any:
    return Sampler(inner, **applied)


def test_two_samplers_are_compared_over_paired_seeds(recipe: Any, prompt: Make):
    asked = {"oracle": sampler(recipe), "request": prompt(6), "tokens": 4, "sampling": Sampling(temperature=1.0)}
    healthy = compare_sampled(sut=sampler(recipe), seeds=range(10), **asked)
    assert healthy.verdict == "no_difference_seen", healthy.sentence
    assert healthy.sut_ids == healthy.oracle_ids
    cold = compare_sampled(sut=sampler(recipe, temperature=0.5), seeds=range(10), **asked)
    assert cold.verdict == "differs"
    assert cold.sampler is not None
    assert "temperature" in {one.setting for one in cold.sampler.departures}
    assert cold.pairs["surprisal"].mean < 0  # colder text surprises less; ten seeds of four tokens prove no more
    one = compare_sampled(sut=sampler(recipe, temperature=0.5), seeds=[3], **asked)
    assert (one.verdict, one.sampler) == ("refused", None)


def test_misuse_of_a_sampled_comparison(recipe: Any, engine: Make, prompt: Make):
    asked = {"oracle": recipe, "request": prompt(6), "tokens": 4}
    with pytest.raises(UsageError, match="temperature above 0"):
        compare_sampled(sut=recipe, sampling=Sampling(), seeds=range(10), **asked)
    with pytest.raises(UsageError, match="9 different"):
        compare_sampled(sut=recipe, sampling=Sampling(temperature=1.0), seeds=[*range(9), 0], **asked)
    greedy = engine(can={"forward", "generate"})
    with pytest.raises(RunnerError, match="greedily only"):
        compare_sampled(sut=greedy, sampling=Sampling(temperature=1.0), seeds=range(10), **asked)
