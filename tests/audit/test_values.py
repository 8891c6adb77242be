"""Names, values and rope frequencies: what is equal, what differs, and what nobody said."""

from __future__ import annotations

import math

import pytest
import torch

from parity.audit import NOT_STATED, Observed, canonical, judge_values
from parity.audit.names import NAMES, same_value
from parity.audit.rope import read_frequencies, tolerance
from parity.invariance import Outcome

THETA = 1e6


def frequencies(theta: float, count: int = 32) -> list[float]:
    exponent = torch.arange(count, dtype=torch.float32) / count
    return (theta**-exponent).tolist()  # fp32 throughout, as engines do


def test_no_name_means_two_things():
    every = [name for canonical_name, aliases in NAMES.items() for name in (canonical_name, *aliases)]
    assert len(every) == len(set(every))


def test_foreign_names_are_read_and_unknown_ones_told():
    known, unknown = canonical(
        {"qwen3moe.rope.freq_base": 1e6, "num_experts_per_tok": 2, "rope_parameters": {"rope_theta": 1e6}, "warp": 9}
    )
    assert known == {"rope_theta": 1e6, "top_k": 2, "rope_scaling": None}
    assert unknown == ("warp",)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [(1e-6, 9.999999974752427e-07, True), (1e-6, 1.0001e-6, False), (1, True, False), (2, 2.0, True),
     (None, False, False), ("a", "a", True), (math.nan, math.nan, False), (None, None, True)],
)  # fmt: skip
def test_two_values_of_one_name(a: object, b: object, equal: bool):
    assert same_value(a, b) is equal


def test_what_is_not_stated_is_never_equal():
    check, findings, rows = judge_values(oracle={"rope_theta": 1e6, "rms_eps": 1e-6}, sut={"warp": 1e-6}, observed=())
    assert (check.outcome, findings) == (Outcome.NOT_RUN, ())
    assert {row.verdict for row in rows} == {NOT_STATED}


def test_one_kernel_in_many_that_is_told_another_value():
    seen = [Observed("rms_eps", 1e-6, ("L00.mlp.norm", "final_norm")), Observed("rms_eps", 1e-5, ("L03.mlp.norm",))]
    check, (finding,), _ = judge_values(oracle={"rms_eps": 1e-6}, sut={"rms_norm_eps": 1e-6}, observed=seen)
    assert check.outcome is Outcome.BROKEN
    assert (finding.name, finding.places, finding.layers) == ("rms_eps", ("L03.mlp.norm",), (3,))


@pytest.mark.parametrize(("limit", "outcome"), [(2048, Outcome.HELD), (1024, Outcome.HELD), (4096, Outcome.BROKEN)])
def test_an_engine_may_serve_fewer_positions(limit: int, outcome: Outcome):
    check, _, _ = judge_values(oracle={"max_positions": 2048}, sut={"max_model_len": limit}, observed=())
    assert check.outcome is outcome


@pytest.mark.parametrize("count", [1, 2, 16, 33, 64])
@pytest.mark.parametrize("theta", [1.5, 1e4, 1e6, 5e8])
def test_frequencies_of_the_base_itself_are_within_fp32(count: int, theta: float):
    assert read_frequencies(frequencies(theta, count), theta).theta == theta


@pytest.mark.parametrize("other", [1e4, 5e5, 1.001e6, 1e7])
def test_frequencies_of_another_base_tell_it(other: float):
    reading = read_frequencies(frequencies(other), THETA)
    assert reading.theta == pytest.approx(other, rel=2 * tolerance(other))
    assert reading.scaled is not None


def test_scaled_pairs_are_told_apart_from_another_base():
    scaled = frequencies(THETA)
    scaled[20:] = [value / 4 for value in scaled[20:]]
    reading = read_frequencies(scaled, THETA)
    assert (reading.theta, reading.scaled) == (None, (20, 32))
    assert reading.ratio[0] == pytest.approx(0.25, rel=1e-5)
    linear = read_frequencies([value / 8 for value in frequencies(THETA)], THETA)
    assert (linear.theta, linear.scaled) == (None, (0, 32))
    assert read_frequencies([1.0, math.nan], THETA).theta is None
