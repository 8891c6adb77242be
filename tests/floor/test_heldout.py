"""Are false alarms counted on other documents than the floor's, with the bound of the textbook?"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from parity.errors import ValueRangeError
from parity.floor import Bin, count_false_alarms, upper_bound, worst_bin
from parity.floor.gate import TAIL_RUNS, conformal_bound, set_gate, tail_bound
from parity.floor.sample import append_sample, read_samples


@pytest.mark.parametrize(("events", "trials"), [(0, 200), (1, 20), (5, 20), (199, 200)])
def test_the_bound_is_clopper_and_pearsons(events: int, trials: int):
    """The quantile of a beta distribution, from mpmath: I_p(k + 1, n - k) = confidence. Of 0 in 200 it is 1.5 %."""
    bound = upper_bound(events, trials)
    below = mpmath.betainc(events + 1, trials - events, 0, bound, regularized=True)
    assert float(below) == pytest.approx(0.95, abs=1e-9)
    assert upper_bound(0, 200) == pytest.approx(0.014867, abs=1e-5)


def test_no_trials_bound_nothing():
    assert upper_bound(0, 0) == 1
    assert upper_bound(3, 3) == 1
    with pytest.raises(ValueRangeError):
        upper_bound(2, 1)


def test_clean_runs_raise_no_alarm_and_damaged_ones_do(clean):
    floor = clean.floor(12)
    rng = np.random.default_rng(99)
    held = [clean.sample(f"other-{n}", clean.tables(rng)) for n in range(20)]
    counted = count_false_alarms(floor, held)
    assert (counted.runs, counted.alarms) == (20, 0)
    assert 0 < counted.worst < 1
    assert counted.upper_bound == pytest.approx(1 - 0.05 ** (1 / 20))

    def louder(oracle, sut):
        sut *= 1.05

    bad = clean.sample("bad", clean.tables(rng, plant=louder))
    assert worst_bin(floor, bad).over > 1
    assert "slope" in worst_bin(floor, bad).where or "norm_ratio" in worst_bin(floor, bad).where
    assert count_false_alarms(floor, [*held, bad]).alarms == 1


def test_a_document_of_the_calibration_is_refused(clean):
    floor = clean.floor(6)
    again = clean.sample("run-3", clean.tables(np.random.default_rng(1)))
    with pytest.raises(ValueRangeError, match="run-3"):
        count_false_alarms(floor, [again])


def test_what_no_bin_covers_is_counted_unjudged(clean):
    floor = clean.floor(6)
    other = clean.sample("other", clean.tables(np.random.default_rng(1)), stage="attn.q")
    counted = count_false_alarms(floor, [other])
    assert counted.alarms == 0
    assert counted.unjudged == len(other.worst)


def test_from_one_over_the_level_runs_on_the_gate_is_conformal(clean):
    rng = np.random.default_rng(3)
    samples = [clean.sample(f"run-{n}", clean.tables(rng, rows=20, width=32)) for n in range(40)]
    keys = sorted(samples[0].worst, key=str)
    worst = np.array([[sample.worst[key] for key in keys] for sample in samples])
    _, few = set_gate(worst, keys, 0.01)
    _, enough = set_gate(worst, keys, 0.05)
    assert few is not None
    assert enough is not None
    assert few.method == "lognormal"
    assert enough.method == "conformal"
    # The 39th smallest of 40: ceil(41 * 0.95).
    assert enough.z == pytest.approx(enough.run_z[38], rel=1e-4)


def test_the_conformal_quantile_covers_what_it_says():
    """2000 draws of 19 runs and one more at level 0.05: the share above is 1 / 20, within 4 standard errors."""
    rng = np.random.default_rng(0)
    over = 0
    for _ in range(2000):
        z = rng.exponential(size=20) ** 2
        bound = conformal_bound(z[:19], 0.05)
        assert bound is not None
        over += z[19] > bound
    assert abs(over / 2000 - 0.05) < 4 * (0.05 * 0.95 / 2000) ** 0.5
    assert conformal_bound(np.ones(18), 0.05) is None


@pytest.mark.parametrize("level", [1e-3, 2e-4])
def test_the_tail_bound_covers_what_it_says_of_a_power_law(level: float):
    """400 runs of a Pareto with tail index 1/4, 500 times: exceeded by `level` on the geometric mean, within a third.

    The exponent's relative error is 1 / sqrt(20); ln(k / (n level)) of 3.9 and 5.5 carries it to the logarithm of the
    true level, whose mean over 500 draws is known to 0.9 and 1.2 / sqrt(500): a third is over four times that.
    """
    rng = np.random.default_rng(1)
    true = [(tail_bound(rng.pareto(4, 400), level) + 1) ** -4.0 for _ in range(500)]
    assert np.exp(np.mean(np.log(true))) == pytest.approx(level, rel=0.34)


def test_a_lighter_tail_than_the_power_law_gets_a_wider_gate_not_a_narrower_one():
    rng = np.random.default_rng(2)
    draws = [tail_bound(rng.exponential(size=400), 1e-3) for _ in range(200)]
    assert np.median(draws) > -np.log(1e-3)


def test_below_what_ranks_can_show_many_runs_give_their_tail_and_never_less_than_a_run():
    rng = np.random.default_rng(5)
    keys = [Bin("isolated", "attn.out", 0, "row", "rel_l2", "prefill", n, -1) for n in range(4)]
    worst = rng.gamma(20, 1e-3, (TAIL_RUNS, 4))
    scales, shown = set_gate(worst, keys, 0.01)
    narrow, below = set_gate(worst, keys, 1e-3)
    assert shown is not None
    assert below is not None
    assert (shown.method, below.method) == ("conformal", "tail")
    assert below.run_z[-1] <= below.z
    assert all(a and b and a.at(shown.z) < b.at(below.z) for a, b in zip(scales, narrow, strict=True))
    assert tail_bound(np.r_[np.full(195, -1.5), 1.0, 1, 1, 1, 1], 1e-3) == 0


def test_runs_that_lie_near_their_centre_have_no_tail_of_millions():
    """Ten scores of 0.01 to 0.4 over a threshold of 1e-6: as ratios to the threshold they would give 1e19 spreads."""
    z = np.r_[np.full(190, 1e-6), np.geomspace(0.01, 0.4, 10)]
    assert 0.4 < tail_bound(z, 1e-3) < 2


def test_a_stage_of_heavy_tail_widens_its_own_gate_and_no_others():
    rng = np.random.default_rng(0)
    keys = [Bin("isolated", s, 0, "row", "rel_l2", "prefill", n, -1) for s in ("attn.q", "moe.down") for n in range(5)]
    worst = rng.gamma(20, 1e-3, (400, 10))
    scales, calm = set_gate(worst, keys, 1e-3)
    worst[:, 5:] *= 1 + 0.3 * rng.pareto(2, (400, 1))
    wide, loud = set_gate(worst, keys, 1e-3)
    assert calm is not None
    assert loud is not None
    gates = [[s.at(g.z) / s.typical for s in found if s] for found, g in ((scales, calm), (wide, loud))]
    assert max(gates[1][:5]) < 1.3 * max(gates[0][:5])
    assert min(gates[1][5:]) > 3 * max(gates[0][5:])
    # One spread is the least: the bound of all stages together is near what each asks for itself.
    assert 0.7 < loud.z < 1.5


def test_samples_survive_their_file_and_a_killed_process(clean, tmp_path):
    rng = np.random.default_rng(4)
    first, second = (clean.sample(name, clean.tables(rng)) for name in ("a", "b"))
    path = tmp_path / "samples.jsonl"
    assert read_samples(path) == []
    append_sample(first, path)
    append_sample(second, path)
    assert read_samples(path) == [first, second]
    path.write_text(path.read_text()[:-40])
    assert read_samples(path) == [first]
