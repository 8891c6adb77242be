"""Measured floors: what honest runs show here, the sum of two environments, and what is no calibration."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.errors import GoldenError
from parity.golden import (
    Calibration,
    check_golden,
    combine,
    contents_of,
    golden_floor,
    make_golden,
    read_golden,
    with_environment,
    write_golden,
)
from parity.golden.calibration import MeasuredFloor, limits_of
from parity.golden.numerics import difference_words
from parity.records import Verdict

FLOOR = golden_floor(None)
DEPTH, ROWS, WIDTH = 12, 20, 160


def weights():
    g = torch.Generator().manual_seed(1)
    return [torch.randn(WIDTH, WIDTH, generator=g) / WIDTH**0.5 for _ in range(DEPTH)]


def chain(dtype: torch.dtype, order: int | None = None) -> dict[str, torch.Tensor]:
    """A chain of layers, each rounded to `dtype`, summed in the order of a permutation."""
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16().to(dtype)
    for w in weights():
        if order is not None:
            at = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(order))
            # In steps of 16, each rounded: an honest accumulation in a short dtype, worse than the derived floor's.
            parts = [x[:, i].float() @ w[i].float() for i in at.split(16)]
            total = torch.zeros(ROWS, WIDTH, dtype=dtype)
            for part in parts:
                total = (total.float() + part).to(dtype)
            x = total
        else:
            x = (x @ w.to(dtype)).to(dtype)
    return {"y": x}


CALIBRATION = Calibration(exact=lambda: chain(torch.float64), honest=lambda n: chain(torch.bfloat16, n), runs=9)


def golden(**changes):
    contents = contents_of(chain(torch.bfloat16, 100))
    made = make_golden(contents, test="t", name=None, floor=FLOOR, calibration=CALIBRATION)
    return replace(made, **changes)


def test_a_run_over_the_derived_floor_is_within_the_measured_one_and_a_fault_is_not():
    stored, now = golden(), contents_of(chain(torch.bfloat16, 101))
    plain = check_golden(replace(stored, floor=FLOOR.label), now, floor=FLOOR)
    assert plain.summary.comparisons[0].verdict is Verdict.EXCEEDS_FLOOR  # several roundings: the derived floor has one
    check = check_golden(stored, now, floor=FLOOR, calibration=CALIBRATION)
    assert check.healthy
    assert max(check.limits["y"].values()) > 1
    faulty = chain(torch.bfloat16, 101)
    faulty["y"][7] *= 1.5
    check = check_golden(stored, contents_of(faulty), floor=FLOOR, calibration=CALIBRATION)
    assert not check.healthy
    assert check.worst is not None
    assert check.worst.worst[0].where.startswith("row 7")


def test_the_floor_is_measured_and_not_taken_from_what_is_checked():
    faulty = chain(torch.bfloat16, 100)
    faulty["y"][7] *= 1.5
    made = make_golden(contents_of(faulty), test="t", name=None, floor=FLOOR, calibration=CALIBRATION)
    assert made.measured[0].limits == golden().measured[0].limits
    assert made.measured[0].distinct == 9


def test_two_environments_add_up_and_a_stored_one_is_not_measured_again(tmp_path):
    stored = golden()
    elsewhere = {**stored.numerics, "isa": "AVX9000", "torch": "9.9"}
    wider = replace(
        stored.measured[0],
        limits={"y": {k: 3 * v for k, v in stored.measured[0].limits["y"].items()}},
        numerics=elsewhere,
    )
    there = replace(stored, numerics=elsewhere, measured=(wider, stored.measured[0]))
    calls = []
    counted = replace(CALIBRATION, honest=lambda n: calls.append(n) or chain(torch.bfloat16, n))
    now = contents_of(chain(torch.bfloat16, 101))
    check = check_golden(there, now, floor=FLOOR, calibration=counted)
    assert not calls
    assert check.elsewhere == difference_words(golden=elsewhere, here=stored.numerics) != ""
    for kind, value in stored.measured[0].limits["y"].items():
        assert check.limits["y"][kind] == pytest.approx(max(1.0, 4 * value))
    check = check_golden(replace(there, measured=(wider,)), now, floor=FLOOR, calibration=counted)
    assert len(calls) == 9
    assert check.limits["y"]["row rel_l2"] == pytest.approx(max(1.0, 4 * stored.measured[0].limits["y"]["row rel_l2"]))


def test_the_table_grows_by_an_environment_and_survives_the_disk(tmp_path):
    elsewhere = golden(numerics={"isa": "AVX9000"})
    elsewhere = replace(elsewhere, measured=(replace(elsewhere.measured[0], numerics={"isa": "AVX9000"}),))
    now = contents_of(chain(torch.bfloat16, 101))
    grown = with_environment(elsewhere, now, floor=FLOOR, calibration=CALIBRATION)
    write_golden(tmp_path / "g.safetensors", grown)
    back = read_golden(tmp_path / "g.safetensors")
    assert [one.numerics for one in back.measured] == [{"isa": "AVX9000"}, golden().numerics]
    assert back.measured == grown.measured
    assert back.contents.tensors is not None
    assert back.contents.tensors["y"].equal(chain(torch.bfloat16, 100)["y"])


def test_equal_runs_count_once():
    same = replace(CALIBRATION, honest=lambda n: chain(torch.bfloat16, 0))
    made = make_golden(contents_of(chain(torch.bfloat16, 0)), test="t", name=None, floor=FLOOR, calibration=same)
    assert (made.measured[0].runs, made.measured[0].distinct) == (9, 1)


def test_a_derived_floor_is_the_same_everywhere():
    contents = contents_of({"y": torch.randn(9, 40, generator=torch.Generator().manual_seed(0)).bfloat16()})
    made = make_golden(contents, test="t", name=None, floor=FLOOR)
    check = check_golden(replace(made, numerics={"isa": "AVX9000"}), contents, floor=FLOOR)
    assert check.healthy
    assert not check.limits
    assert "isa AVX9000 -> " in check.elsewhere


def test_a_measured_floor_that_lets_zeros_pass_has_no_power():
    broad = replace(CALIBRATION, honest=lambda n: {"y": chain(torch.bfloat16, n)["y"] * (-1) ** n})
    made = make_golden(contents_of(chain(torch.bfloat16, 0)), test="t", name=None, floor=FLOOR, calibration=broad)
    check = check_golden(made, contents_of({"y": 0 * chain(torch.bfloat16, 0)["y"]}), floor=FLOOR, calibration=broad)
    assert not check.healthy
    assert check.summary.verdicts == {"NO_POWER": 1}


BAD = {
    "nan": lambda n: {"y": chain(torch.bfloat16, n)["y"] / 0},
    "shape": lambda n: {"y": chain(torch.bfloat16, n)["y"][1:]},
    "dtype": lambda n: {"y": chain(torch.bfloat16, n)["y"].float()},
    "name": lambda n: {"z": chain(torch.bfloat16, n)["y"]},
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_calibration_is_refused(case):
    bad = replace(CALIBRATION, honest=BAD[case])
    with pytest.raises(GoldenError):
        make_golden(contents_of(chain(torch.bfloat16, 0)), test="t", name=None, floor=FLOOR, calibration=bad)


def test_an_honest_run_passes_at_any_of_many_kinds_as_seldom_as_is_said():
    """The unit is the run: 40 kinds of heavy tails and unlike scales, 9 runs, 600 checks of a new one each."""
    draw = np.random.default_rng(0)
    alarms = 0
    for _ in range(600):
        scores = 5 * np.exp(draw.normal(size=(10, 40)) * np.linspace(0.05, 1.0, 40))
        *runs, new = [{"y": {str(k): float(v) for k, v in enumerate(row)}} for row in scores]
        limits = limits_of(runs)["y"]
        alarms += any(value > limits[kind] for kind, value in new["y"].items())
    # 1 / (9 + 1) is the bound; three standard errors of 600 draws above it. The worst of each kind alone, without c,
    # would let such a run alarm in nearly every draw.
    assert alarms / 600 <= 0.1 + 3 * (0.09 / 600) ** 0.5


def test_one_run_alone_promises_nothing_and_small_scores_count_as_half_a_floor():
    assert limits_of([{"y": {"row rel_l2": 3.0}}]) == {"y": {"row rel_l2": 3.0}}
    two = limits_of([{"y": {"a": 0.0, "b": 4.0}}, {"y": {"a": 0.01, "b": 2.0}}])
    assert two == {"y": {"a": 1.0, "b": 8.0}}
    assert limits_of([]) == {}
    # No element of either run is over its floor: each may yet be off by one, and two sides by two.
    seen = limits_of([{"y": {"row element": 0.0}}, {"y": {"row element": 0.0}}])
    assert seen == {"y": {"row element": 1.0}}
    here = MeasuredFloor({}, seen, 2, 2)
    assert combine(then=here, now=here) == {"y": {"row element": 2.0}}


def test_limits_are_never_below_one_floor():
    made = golden()
    small = replace(made.measured[0], limits={"y": {"row rel_l2": 0.1}})
    assert combine(then=small, now=small) == {"y": {"row rel_l2": 1.0}}


def in_format(number: int, path: Path) -> None:
    """The golden as an earlier (or later) version wrote it: the same file under another format."""
    raw = path.read_bytes()
    said = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["parity.golden"]
    text = json.dumps({**json.loads(said), "format": number}, sort_keys=True)
    save_file(load_file(path), path, metadata={"parity.golden": text, "parity.crc32": str(zlib.crc32(text.encode()))})


def test_a_golden_of_the_first_format_asks_for_its_floors_and_keeps_its_values(tmp_path: Path):
    path = tmp_path / "g.safetensors"
    written = golden()
    write_golden(path, written)
    in_format(1, path)
    old, actual = read_golden(path), contents_of(chain(torch.bfloat16, 100))
    assert old.format == 1
    assert not old.measured, "its limits bounded another thing"
    with pytest.raises(GoldenError, match=r"(?s)format 1.*--parity-measure.*--parity-update"):
        check_golden(old, actual, floor=FLOOR, calibration=CALIBRATION)
    measured = with_environment(old, actual, floor=FLOOR, calibration=CALIBRATION)
    write_golden(path, measured, replace=True)
    again = read_golden(path)
    assert again.format == 2
    assert again.measured == written.measured
    assert torch.equal((again.contents.tensors or {})["y"], (written.contents.tensors or {})["y"])
    assert check_golden(again, actual, floor=FLOOR, calibration=CALIBRATION).healthy


def test_a_golden_of_the_first_format_without_measured_floors_reads_as_ever_and_a_later_one_does_not(tmp_path: Path):
    path = tmp_path / "g.safetensors"
    contents = contents_of(torch.ones(3, 160).bfloat16())
    write_golden(path, make_golden(contents, test="t", name=None, floor=FLOOR))
    in_format(1, path)
    assert check_golden(read_golden(path), contents, floor=FLOOR).healthy
    in_format(3, path)
    with pytest.raises(GoldenError, match="format 3, this version reads 1 and 2"):
        read_golden(path)
