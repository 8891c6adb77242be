"""Rounds that wander and drift are followed to their beginning; forms with fields of many lengths are left alone."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from benchmarks.text_cases import blocks, degenerate, wandering
from benchmarks.text_cases.degenerate import pieces
from benchmarks.text_cases.planted import wandered
from parity.text import find_loop, split_text
from parity.text.drift import ANCHOR, DROP, MISS, follow_back


def rounds_of(period: int, rounds: int, rate: float, seed: int) -> list[int]:
    """Ids of rounds, of each of which some are left out and some put in."""
    rng = random.Random(seed)
    unit, said = [1000 + n for n in range(period)], []
    for _ in range(rounds):
        for one in unit:
            chance = rng.random()
            said += [] if chance < rate / 2 else [one, rng.randrange(5000, 9000)] if chance < rate else [one]
    return said


@pytest.mark.parametrize("before", [0, 1, 700])
@pytest.mark.parametrize("period", [17, 64, 200, 512])
def test_rounds_that_wander_are_followed_to_their_beginning(period: int, before: int):
    head = list(range(20_000, 20_000 + before))
    trail = follow_back(np.array([*head, *rounds_of(period, 7, 0.04, period)], np.int32))
    assert trail is not None
    # As many tokens as the score may lose; and of the outermost round, edits that stand close together may cost more
    # than it has to give.
    assert abs(trail.start - before) <= max(DROP / MISS, period)
    assert abs(trail.period - period) <= max(period // 16, 2)
    # Of each pair of rounds about 0.06 of the tokens stand in one of them alone, some beside one another.
    assert trail.rate > 0.85


@pytest.mark.parametrize("tokens", [0, 1, ANCHOR, 2 * ANCHOR, 5000])
def test_what_repeats_nothing_is_not_followed(tokens: int):
    assert follow_back(np.arange(tokens, dtype=np.int32)) is None


def test_what_is_followed_is_bounded():
    ids = np.array(rounds_of(100, 60, 0.04, 1), np.int32)
    whole, part = follow_back(ids), follow_back(ids, most=1500)
    assert whole is not None
    assert part is not None
    assert whole.start <= DROP / MISS < len(ids) - 1500 <= part.start
    assert np.array_equal(part.same[part.start + 200 :], whole.same[part.start + 200 :])


LOOPS = [one for one in wandering.texts() if one.kind not in ("digits", "tail")]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda one: one.name)
def test_a_loop_that_wanders_is_found(loop: degenerate.Degenerate):
    assert find_loop(split_text(loop.text)) is not None


@pytest.mark.parametrize("name", sorted(blocks.TEXTS))
def test_blocks_with_fields_of_many_lengths_are_no_loops(name: str):
    assert find_loop(split_text(blocks.TEXTS[name]())) is None


def test_a_block_of_code_in_which_a_number_tells_nothing_is_a_loop_and_one_with_a_clock_is_none():
    code = wandering.CODE.replace("0", "{first}", 1).replace("1", "{second}", 1)
    first, second = ("{first}", "{second}")
    rng, clock, idle, timed = random.Random(4), 0, "", ""
    for _ in range(14):
        clock += rng.randrange(1, 50)
        other = code.replace(second, str(rng.randrange(1000)))
        idle += other.replace(first, str(rng.randrange(1000)))
        timed += other.replace(first, str(clock))
    loop = find_loop(split_text(idle))
    assert loop is not None
    assert loop.kind == "template"
    assert find_loop(split_text(timed)) is None


def test_following_costs_little():
    """A million tokens have five seconds for everything; a hundred thousand that wander are followed in a second."""
    rng = random.Random(2)
    pool = [one for one in pieces(wandering.PROSE) if one.isalpha()]
    text = split_text(wandered(wandering.PROSE, 250, 0.08, pool, rng))
    assert len(text) > 90_000
    start = time.process_time()
    assert follow_back(text.codes) is not None
    assert time.process_time() - start < 1
