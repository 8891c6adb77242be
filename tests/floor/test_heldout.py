"""Are false alarms counted on other documents than the floor's, with the bound of the textbook?"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from parity.errors import ValueRangeError
from parity.floor import count_false_alarms, upper_bound, worst_bin
from parity.floor.gate import conformal_bound, set_gate
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
