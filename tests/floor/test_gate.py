"""Is the next clean run under the gate, a planted defect over it, and the rest undisturbed by one wild bin?"""

from __future__ import annotations

import numpy as np
import pytest

from parity.floor import Bin, calibrate
from parity.floor.bins import resolution
from parity.floor.gate import set_gate


def test_clean_runs_stay_under_the_gate_from_six_runs_on(clean):
    """60 fresh runs against each of two floors. At a level of 1e-3 none of 120 is expected (0.12 on average)."""
    for runs in (6, 12):
        floor = clean.floor(runs, seed=runs)
        rng = np.random.default_rng(1000 + runs)
        scores = [clean.worst(floor, clean.tables(rng)) for _ in range(60)]
        assert max(scores) < 1
        assert max(scores) > 0.3, "a gate that nothing comes near is no gate"


def half_row(oracle, sut):
    sut[37] *= 0.5


def lost_row(oracle, sut):
    sut[37] = 0


def swapped_rows(oracle, sut):
    sut[[3, 4]] = sut[[4, 3]]


def block_scaled(oracle, sut):
    sut[:, 128:] *= 1.03


def all_scaled(oracle, sut):
    sut *= 1.02


def signs(oracle, sut):
    sut[:, ::2] *= -1


@pytest.mark.parametrize("plant", [half_row, lost_row, swapped_rows, block_scaled, all_scaled, signs])
@pytest.mark.parametrize("runs", [6, 8])
def test_planted_defect_is_over_the_gate(clean, plant, runs):
    floor = clean.floor(runs)
    assert clean.worst(floor, clean.tables(np.random.default_rng(77), plant=plant)) > 1.2


def test_a_bin_that_varies_by_factors_does_not_blind_the_rows(clean):
    """One signed bin (slope of the whole tensor) is near zero in one run; the row gate stays within 2.5 of typical."""

    def calm(oracle, sut):
        sut -= oracle * ((sut * oracle).sum() / (oracle * oracle).sum() - 1)  # slope of the whole tensor exactly 1

    rng = np.random.default_rng(5)
    samples = [clean.sample(f"run-{n}", clean.tables(rng, plant=calm if n == 2 else None)) for n in range(8)]
    floor = calibrate(samples, recipe=clean.recipe, lineage=clean.lineage)
    key = Bin("isolated", "attn.out", 0, "row", "rel_l2", "prefill", 3, -1)
    scale, gate = floor.scale(key), floor.gate(key)
    assert scale is not None
    assert gate is not None
    assert gate < 2.5 * scale.typical


def test_a_run_does_not_excuse_itself(clean):
    """A clean run that is ten times as wrong as the others widens the gate by its z, which the others alone define."""
    rng = np.random.default_rng(6)
    calm = [clean.sample(f"run-{n}", clean.tables(rng)) for n in range(7)]
    wild = clean.sample("wild", clean.tables(rng, noise=0.3))
    gate = calibrate([*calm, wild], recipe=clean.recipe, lineage=clean.lineage).gates["isolated"]
    assert gate.run_z[-1] > 5 * gate.run_z[-2]


def _loud_and_calm(random: np.random.Generator, runs: int, loud: int) -> tuple[np.ndarray, np.ndarray]:
    """[runs, 40] worst deviations: 20 bins alike in all orders, 20 that are 30 times as large in order `loud`."""
    orders = np.arange(runs) % 4
    worst = 1e-3 * random.chisquare(20, (runs, 40)) / 20
    worst[:, 20:] *= np.where(orders == loud, 1.0, 1 / 30)[:, None]
    return worst, orders


def test_a_loud_order_does_not_open_the_gates_of_other_bins():
    """Known by order: 800 fresh runs stay rare above the gate, and bins that no order disturbs have a lower one."""
    random = np.random.default_rng(11)
    keys = [Bin("distance", f"stage {n // 20}", n % 20, "tensor", "slope", "prefill", -1, 6) for n in range(40)]
    worst, orders = _loud_and_calm(random, 60, 3)
    known, gate = set_gate(worst, keys, 0.02, orders=orders)
    mixed, wide = set_gate(worst, keys, 0.02)
    assert gate is not None
    assert wide is not None
    here, before = (np.array([s.at(g.z) for s in scales if s]) for scales, g in ((known, gate), (mixed, wide)))
    assert (here[:20] < before[:20] / 1.1).all(), "the bins that no order disturbs"
    fresh, _ = _loud_and_calm(random, 800, 3)
    assert (fresh > here).any(axis=1).mean() < 0.04


def test_wild_rows_do_not_open_the_gates_of_their_own_stage():
    """Rows with a power-law tail, beside the tensors of the same stages: 2000 fresh runs stay rare above the gate, and
    a tensor's gate stays near what tensors do."""
    random = np.random.default_rng(21)
    keys = [
        Bin("distance", f"stage {n}", 0, kind, metric, "prefill", -1, size)
        for n in range(4)
        for kind, metric, size in (("row", "rel_l2", 0), ("tensor", "slope", 9))
    ]
    tensors = [n for n, key in enumerate(keys) if key.kind == "tensor"]

    def runs(count: int) -> np.ndarray:
        drawn = 1e-3 * np.exp(random.normal(0, 0.2, (count, len(keys))))
        drawn[:, 0] *= 1 + random.pareto(1.0, count)
        return drawn

    scales, gate = set_gate(runs(400), keys, 1e-3)
    assert gate is not None
    gates = np.array([scale.at(gate.z) for scale in scales if scale is not None])
    fresh = runs(2000)
    assert (fresh > gates).any(axis=1).mean() < 5e-3
    assert gates[tensors].max() < 3 * fresh[:, tensors].max()
    assert gates[0] > fresh[:, 0].max() / 10, "the rows that are wild keep a gate of their own"


def test_one_layers_wild_rows_lend_half_of_their_tail_to_the_others():
    """Four layers of one stage and kind, the last with a heavy tail: it keeps its own, the others' grow, and 2000 fresh
    runs of the four stay rare above their gates."""
    random = np.random.default_rng(22)
    keys = [Bin("distance", "stage", layer, "row", "rel_l2", "prefill", -1, 0) for layer in range(4)]
    alone = [key._replace(stage=f"stage {key.layer}") for key in keys]

    def runs(count: int) -> np.ndarray:
        drawn = 1e-3 * np.exp(random.normal(0, 0.2, (count, 4)))
        drawn[:, 3] *= 1 + random.pareto(2.0, count)
        return drawn

    seen = runs(400)
    (near, gate), (apart, single) = (set_gate(seen, names, 1e-3) for names in (keys, alone))
    assert gate is not None
    assert single is not None
    lent, own = (np.array([one.spread for one in scales if one is not None]) for scales in (near, apart))
    assert lent[3] == own[3]
    assert (lent[:3] > own[:3]).all()
    gates = np.array([scale.at(gate.z) for scale in near if scale is not None])
    assert (runs(2000) > gates).any(axis=1).mean() < 5e-3


def test_errors_at_the_resolution_of_fp32_do_not_open_gates_to_a_thousand_of_it():
    """Clean runs at or below what reordering one sum changes, one in fifteen at up to twice that: chained gates stay
    within ten resolutions, 2000 fresh runs rare above them, and a gate without inheritance is what it was."""
    random = np.random.default_rng(23)
    stages = [("moe.experts", layer) for layer in range(4)] + [("attn.q", layer) for layer in range(4)]
    keys = [Bin("chained", stage, layer, "row", "rel_l2", "prefill", 4, -1) for stage, layer in stages]
    least = resolution(keys[0])

    def runs(count: int) -> np.ndarray:
        drawn = least * random.uniform(0.2, 0.9, (count, len(keys)))
        loud = random.random((count, 4)) < 1 / 15
        drawn[:, :4] = np.where(loud, least * random.uniform(1, 2, (count, 4)), drawn[:, :4])
        return drawn

    seen = runs(400)
    scales, gate = set_gate(seen, keys, 2e-5 / 3)
    assert gate is not None
    gates = np.array([scale.at(gate.z) for scale in scales if scale is not None])
    assert (gates < 10 * least).all()
    assert (runs(2000) < gates).all()
    apart, narrow = set_gate(seen[:, 4:], [key._replace(mode="isolated") for key in keys[4:]], 2e-5 / 3)
    assert all(scale is not None and scale.spread < 0.06 * scale.centre for scale in apart)
    assert narrow is None or narrow.z <= 1


def test_a_free_oracle_judges_by_rank_or_not_at_all(clean):
    rng = np.random.default_rng(12)
    samples = [clean.sample(f"run-{n}", clean.tables(rng, rows=20, width=32), mode="free") for n in range(40)]
    few = calibrate(samples, recipe=clean.recipe, lineage=clean.lineage, level=0.01)
    enough = calibrate(samples, recipe=clean.recipe, lineage=clean.lineage, level=0.05)
    assert "free" not in few.gates
    assert enough.gates["free"].method == "conformal"
