"""The statistics of the decoding room: rates hold on noise, planted differences are seen, and few pairs are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from parity.decode import compare_pairs, fit_penalties, growth_of, sign_test
from parity.decode.excess import excess_of
from parity.errors import UsageError
from parity.metrics.interval import wilson


def test_growth_is_seen_where_it_is_and_not_where_it_is_not():
    position = np.arange(1, 201)
    flat = rising = 0
    for seed in range(40):
        noise = np.exp(np.random.default_rng(seed).normal(0, 1, 200))
        flat += bool((found := growth_of(1e-3 * noise)) and found.grows)
        steep = growth_of(1e-6 * noise * position)
        assert steep is not None
        rising += steep.grows and steep.low < 1 < steep.high + 0.6
    # One-sided 2.5 % of 40 is 1; more than 5 has probability below 1e-3 (binomial).
    assert flat <= 5
    assert rising >= 38


@pytest.mark.parametrize("kl", [np.zeros(0), np.zeros(50), np.full(50, 1e-15), np.full(15, 1.0), np.full(50, np.nan)])
def test_no_growth_from_nothing(kl: np.ndarray):
    assert growth_of(kl) is None


def test_excess_needs_more_than_the_noise_itself():
    random = np.random.default_rng(0)
    clean, other = np.abs(random.normal(size=(2, 200))) + 0.1
    same, twice = excess_of("prefill", other, clean), excess_of("prefill", 3 * other, clean)
    assert same is not None
    assert twice is not None
    assert not same.exceeds
    assert twice.exceeds
    assert excess_of("decode", other[:15], clean[:15]) is None


def test_wilson_and_the_sign_test_give_textbook_values():
    # Newcombe 1998, doi 10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert sign_test(0, 0) == 1.0
    assert sign_test(9, 1) == pytest.approx(22 / 1024)
    assert sign_test(10, 0) == pytest.approx(2 / 1024)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_pairs_are_refused_with_the_number_needed(count: int):
    found = compare_pairs([0.0] * count, [1.0] * count)
    assert (found.verdict, found.needed) == ("refused", 10)


def test_paired_seeds_show_a_planted_difference_and_no_other():
    alarms = covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        base = random.normal(0, 3, 20)
        alarms += compare_pairs(base.tolist(), (base + random.normal(0, 1, 20)).tolist()).verdict == "differs"
        shifted = compare_pairs(base.tolist(), (base + 2 + random.normal(0, 1, 20)).tolist())
        assert shifted.verdict == "differs"
        covered += shifted.low < 2 < shifted.high
    # At most 5 % by the sign test: 60 runs give more than 8 with probability below 0.01.
    assert alarms <= 8
    # A percentile interval of 20 values covers somewhat less than 95 %; fewer than 48 of 60 at 90 % has p < 0.01.
    assert covered >= 48
    with pytest.raises(UsageError, match="10 and 11"):
        compare_pairs([0.0] * 10, [0.0] * 11)
    with pytest.raises(UsageError, match="1 not finite"):
        compare_pairs([0.0] * 10, [0.0] * 9 + [math.nan])


def decoded(kind: str, strength: float, *, seed: int, steps: int = 24) -> tuple[torch.Tensor, list[int], list[int]]:
    """Logits, prompt and choices of a greedy sampler with a penalty, written out token by token."""
    random = torch.Generator().manual_seed(seed)
    favourites = torch.randn(13, generator=random) * 2
    prompt, chosen, rows = [3, 3, 7, 0], [], []
    for _ in range(steps):
        row = favourites + torch.randn(13, generator=random)
        rows.append(row)
        scores = row.tolist()
        for token in range(13):
            times, before = chosen.count(token), token in prompt
            if kind == "presence":
                scores[token] -= strength * (times > 0)
            elif kind == "presence_with_prompt":
                scores[token] -= strength * (times > 0 or before)
            elif kind == "frequency":
                scores[token] -= strength * times
            elif times or before:
                scores[token] = scores[token] / strength if scores[token] > 0 else scores[token] * strength
        chosen.append(max(range(13), key=lambda token: scores[token]))
    return torch.stack(rows), prompt, chosen


@pytest.mark.parametrize(
    ("kind", "strength"),
    [("presence", 1.5), ("presence_with_prompt", 0.7), ("frequency", 0.4), ("repetition", 1.3), ("presence", -0.5)],
)
@pytest.mark.parametrize("seed", range(4))
def test_the_range_of_a_penalty_holds_the_true_one(kind: str, strength: float, seed: int):
    rows, prompt, chosen = decoded(kind, strength, seed=seed)
    found = {one.kind: one for one in fit_penalties(rows, chosen, prompt)}
    assert found[kind].low <= strength + 1e-6
    assert strength - 1e-6 <= found[kind].high
    assert found[kind].high - found[kind].low < 2


@pytest.mark.parametrize("seed", range(4))
def test_no_penalty_is_in_every_range(seed: int):
    rows, prompt, chosen = decoded("presence", 0.0, seed=seed)
    assert all(one.explains_without for one in fit_penalties(rows, chosen, prompt))
    assert len(fit_penalties(rows, chosen, prompt)) == 4


def test_choices_that_no_penalty_makes_have_no_range():
    rows, prompt, chosen = decoded("presence", 0.0, seed=1)
    chosen[5] = int(rows[5].argmin())
    assert fit_penalties(rows, chosen, prompt) == () or all(
        not one.explains_without for one in fit_penalties(rows, chosen, prompt)
    )
