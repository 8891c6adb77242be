"""Does a floor say "no floor" where it has none, survive a file, and refuse what would make it meaningless?"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest

from parity.errors import UsageError, ValueRangeError
from parity.floor import Bin, Floor, FloorSample, calibrate, refuse_engine
from parity.floor.purity import ENGINES


def tensor_bin(size: int, metric: str = "slope", **more: Any) -> Bin:
    return Bin("isolated", "attn.out", 0, "tensor", metric, "prefill", -1, size)._replace(**more)


def test_outside_the_calibration_there_is_no_floor(clean):
    floor = clean.floor()
    assert floor.gate(tensor_bin(6)) is not None  # 100 rows: 64..127
    for other in ({"mode": "chained"}, {"stage": "attn.q"}, {"layer": 1}, {"phase": "decode"}, {"kind": "head"}):
        assert floor.gate(tensor_bin(6, **other)) is None
    row = Bin("isolated", "attn.out", 0, "row", "rel_l2", "prefill", 4, -1)
    assert floor.gate(row) is not None  # positions 64..255
    assert floor.gate(row._replace(position=5)) is None
    tables = clean.tables(np.random.default_rng(0), rows=300)
    over = floor.judge(
        mode="isolated", stage="attn.out", layer=0, phase="prefill", kind="row", table=dict(tables)["row"],
        position=np.arange(300),
    )["rel_l2"]  # fmt: skip
    assert np.isnan(over[256:]).all()
    assert not np.isnan(over[:256]).any()


def test_other_sizes_stand_in_only_where_they_are_too_wide(clean):
    floor = clean.floor()
    at, larger, smaller = (floor.gate(tensor_bin(size)) for size in (6, 9, 5))
    assert at is not None
    assert larger == at  # 512 rows are judged by the wider scale of 64..127 rows
    assert smaller == pytest.approx(2 * at)  # 32..63 rows: at most four times fewer, sqrt(4)
    assert floor.gate(tensor_bin(3)) is None


def test_early_positions_are_judged_by_later_ones_never_the_reverse(clean):
    rng = np.random.default_rng(0)
    samples = []
    for n in range(6):
        sample = FloorSample(f"run-{n}")
        tables = clean.tables(rng, rows=40)
        sample.add(mode="chained", stage="attn.q", layer=0, phase="prefill", tables=tables, position=np.arange(64, 104))
        samples.append(sample)
    floor = calibrate(samples, recipe=clean.recipe, lineage=clean.lineage)
    row = Bin("chained", "attn.q", 0, "row", "rel_l2", "prefill", 4, -1)
    assert floor.gate(row) == floor.gate(row._replace(position=0))
    assert floor.gate(row._replace(position=5)) is None


def test_exactly_zero_clean_error_means_any_error_is_over(clean):
    rng = np.random.default_rng(0)
    samples = [clean.sample(f"run-{n}", clean.tables(rng, noise=0.0), stage="embed.out", layer=None) for n in range(6)]
    samples += [clean.sample("noisy", clean.tables(rng))]
    floor = calibrate(samples, recipe=clean.recipe, lineage=clean.lineage)

    def last_bit(oracle, sut):
        sut[5, 5] *= 1 + 2**-50

    same = clean.tables(rng, noise=0.0)
    off = clean.tables(rng, noise=0.0, plant=last_bit)
    assert clean.worst(floor, same, stage="embed.out", layer=None) == 0
    assert clean.worst(floor, off, stage="embed.out", layer=None) == np.inf


def test_reordered_fp32_sums_are_noise_even_where_the_emulation_has_none(clean):
    rng = np.random.default_rng(0)
    samples = [clean.sample(f"run-{n}", clean.tables(rng, noise=0.0), stage="logits", layer=None) for n in range(6)]
    samples = [s for s in samples for _ in (s.add(
        mode="isolated", stage="attn.out", layer=0, phase="prefill", tables=clean.tables(rng), position=np.arange(100)
    ),)]  # fmt: skip
    floor = calibrate(samples, recipe=clean.recipe, lineage=clean.lineage)
    # 1e-6 is 17 units of roundoff, the sqrt of a sum of 288 terms; 1e-4 is no summation order of anything below 2^21
    # terms.
    assert clean.worst(floor, clean.tables(rng, noise=1e-6), stage="logits", layer=None) < 1
    assert clean.worst(floor, clean.tables(rng, noise=1e-4), stage="logits", layer=None) > 1


def test_a_floor_survives_its_file(clean, tmp_path):
    floor = clean.floor()
    floor.save(tmp_path / "floor.json")
    again = Floor.load(tmp_path / "floor.json")
    assert again == floor
    assert json.loads((tmp_path / "floor.json").read_text())["runs"] == [f"run-{n}" for n in range(8)]


@pytest.mark.parametrize("text", ["", "[]", '{"format": "parity-floor", "version": 99}', '{"format": "other"}'])
def test_foreign_files_are_refused(tmp_path, text):
    (tmp_path / "floor.json").write_text(text)
    with pytest.raises(UsageError, match="parity-floor"):
        Floor.load(tmp_path / "floor.json")


def test_too_few_or_repeated_runs_are_refused(clean):
    rng = np.random.default_rng(0)
    samples = [clean.sample(f"run-{n}", clean.tables(rng)) for n in range(3)]
    with pytest.raises(UsageError, match="at least 4"):
        calibrate(samples, recipe=clean.recipe, lineage=clean.lineage)
    with pytest.raises(UsageError, match="different names"):
        calibrate([*samples, samples[0]], recipe=clean.recipe, lineage=clean.lineage)


def test_a_clean_run_with_an_infinite_error_is_refused(clean):
    def silent_oracle(oracle, sut):
        oracle[3] = 0

    def spoilt(oracle, sut):
        sut[3, 3] = np.nan

    for plant in (silent_oracle, spoilt):
        with pytest.raises(ValueRangeError, match="clean run bad"):
            clean.sample("bad", clean.tables(np.random.default_rng(0), plant=plant))


def test_an_engine_in_the_process_is_refused(monkeypatch):
    for name in ENGINES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    refuse_engine()
    monkeypatch.setitem(sys.modules, "parity_kernels", sys)
    with pytest.raises(UsageError, match="parity_kernels"):
        refuse_engine()
