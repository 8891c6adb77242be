"""A golden's life: missing and written, held, broken, rewritten; and what a person reads at each step."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli import app
from parity.golden import read_golden, write_golden

pytest_plugins = "pytester"

ONE = """
def test_forward(parity_golden):
    parity_golden.check({"y": values().bfloat16(), "z": values(1)})
"""
FAULTY = """
def test_forward(parity_golden):
    y = values()
    y[12, 128:] *= 1.02
    parity_golden.check({"y": y.bfloat16(), "z": values(1)})
"""


def test_a_missing_golden_is_written_and_the_test_fails(project, pytester):
    result = project(ONE)
    result.assert_outcomes(failed=1)
    path = pytester.path / "goldens/test_engine/test_forward.safetensors"
    assert path.is_file()
    result.stdout.fnmatch_lines(
        [
            f"parity golden: there was none, so it was written: {path}",
            "  2 tensors, * KB, floor derived:own dtype",
            "  Nothing was checked. Make sure that these numbers are right, commit the file, and run again.",
            "written: goldens/test_engine/test_forward.safetensors: 2 tensors, *",
        ]
    )
    project(None).assert_outcomes(passed=1)
    golden = read_golden(path)
    assert golden.test == "test_engine::test_forward"
    assert golden.numerics["torch"]
    assert golden.provenance["written"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no half-written file is left


def test_a_failure_names_the_worst_slice_its_floors_and_a_command_that_shows_it(project, pytester):
    project(ONE)
    before = (pytester.path / "goldens/test_engine/test_forward.safetensors").read_bytes()
    result = project(FAULTY)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.search(r"worst: y: row 12\b.*: [\d.]+ times its floor", text)
    assert "parity golden: 1 of 2 do not hold" in text
    assert "test_engine.py::test_forward --parity-update" in text
    command = re.search(r"investigate: (.*)", text)
    assert command
    words = shlex.split(command[1])
    assert words[:3] == ["parity", "compare", "--oracle"]
    assert words[-2:] == ["--floor", "derived:bfloat16"]
    shown = CliRunner().invoke(app, words[1:])
    assert shown.exit_code == 1
    assert "row 12" in shown.stdout
    assert (pytester.path / "goldens/test_engine/test_forward.safetensors").read_bytes() == before


def test_noise_within_the_floor_passes_and_one_rounding_more_does_not_leave_it(project):
    project(ONE)
    # The same numbers, computed through another order: an ulp of float32 apart, rounded to bf16.
    other = ONE.replace("values().bfloat16()", "((values() + 3e-8) * (1 + 6e-8)).bfloat16()")
    project(other).assert_outcomes(passed=1)


def test_update_rewrites_and_says_by_how_many_floors(project):
    project(ONE)
    result = project(FAULTY, "--parity-update")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines(
        [r"rewritten: goldens/test_engine/test_forward\.safetensors: 1 of 2 moved: y by [\d.]+ floors at row 12\b.*"]
    )
    project(FAULTY).assert_outcomes(passed=1)
    project(ONE).assert_outcomes(failed=1)


def test_update_leaves_what_has_not_moved_and_writes_what_is_missing(project, pytester):
    project(ONE)
    path = pytester.path / "goldens/test_engine/test_forward.safetensors"
    before = path.stat().st_mtime_ns
    more = ONE + "\ndef test_more(parity_golden):\n    parity_golden.check(values(3))\n"
    result = project(more, "--parity-update")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["unchanged: 1"])
    assert path.stat().st_mtime_ns == before
    project(more).assert_outcomes(passed=2)


def test_another_floor_is_a_change_of_the_golden(project):
    project(ONE)
    wider = ONE.replace("values(1)})", 'values(1)}, floor="derived:bfloat16:64")')
    result = project(wider)
    result.assert_outcomes(failed=1)
    assert "the golden's own, derived:own dtype; found derived:bfloat16:64" in result.stdout.str()
    result = project(wider, "--parity-update")
    assert "floor derived:own dtype -> derived:bfloat16:64" in result.stdout.str()
    project(wider).assert_outcomes(passed=1)


CHANGES = {
    "shape": ('{"y": values().bfloat16()[:23], "z": values(1)}', "y: SHAPE_MISMATCH, oracle [24, 160], sut [23, 160]"),
    "dtype": ('{"y": values().bfloat16().float(), "z": values(1)}', "y: DTYPE_MISMATCH, another dtype: golden BF16"),
    "missing": ('{"z": values(1)}', "y: MISSING_IN_SUT"),
    "extra": ('{"y": values().bfloat16(), "z": values(1), "w": values()}', "w: MISSING_IN_ORACLE"),
    "nan": ('{"y": values().bfloat16().index_fill(0, torch.tensor(3), float("nan")), "z": values(1)}', "y: NONFINITE"),
    "empty": ('{"y": values().bfloat16()[:0], "z": values(1)}', "y: SHAPE_MISMATCH"),
    "none": ("{}", "2 of 2 do not hold"),
    "renamed": ('{"Y": values().bfloat16(), "z": values(1)}', "y: MISSING_IN_SUT"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_kind_fails_and_says_which(project, change):
    project(ONE)
    value, words = CHANGES[change]
    result = project(f"def test_forward(parity_golden):\n    parity_golden.check({value})\n")
    result.assert_outcomes(failed=1)
    assert words in result.stdout.str()


REFUSED = {
    "nothing": ("{}", "at least one tensor"),
    "empty": ('{"y": values()[:0]}', "an empty tensor of shape"),
    "nan": ('{"y": values() / 0 * 0}', "NaN or infinite"),
    "list": ("[1.0, 2.0]", "a tensor, a mapping of names to tensors, or a trace"),
    "large": ("values(rows=2000)", "a golden of at most 512000 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("option", [(), ("--parity-update",)], ids=["plain", "update"])
def test_what_cannot_be_a_golden_is_refused_and_not_written(project, pytester, case, option):
    value, words = REFUSED[case]
    result = project(f"def test_forward(parity_golden):\n    parity_golden.check({value})\n", *option)
    result.assert_outcomes(failed=1)
    assert words in result.stdout.str()
    assert not list(pytester.path.rglob("*.safetensors"))


def test_a_large_golden_is_written_where_it_is_allowed(project, pytester):
    large = "def test_forward(parity_golden):\n    parity_golden.check(values(rows=2000), max_bytes=2_000_000)\n"
    project(large)
    project(large).assert_outcomes(passed=1)
    pytester.makeini("[pytest]\nparity_golden_max_bytes = 2000000\n")
    project(large.replace(", max_bytes=2_000_000", "").replace("test_forward", "test_other"))
    assert (Path(pytester.path) / "goldens/test_engine/test_other.safetensors").is_file()


def test_a_damaged_golden_is_no_verdict_and_is_not_overwritten(project, pytester):
    project(ONE)
    path = pytester.path / "goldens/test_engine/test_forward.safetensors"
    good = path.read_bytes()
    for raw in (good[:-7], good[:-5] + bytes([good[-5] ^ 4]) + good[-4:], b"", b"version https://git-lfs.github.com/"):
        path.write_bytes(raw)
        result = project(None)
        result.assert_outcomes(failed=1)
        assert "an intact golden" in result.stdout.str()
        assert path.read_bytes() == raw
    assert "git lfs pull" in result.stdout.str()
    result = project(None, "--parity-update")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rewritten: *: the old one could not be read: *"])
    project(None).assert_outcomes(passed=1)


def test_a_folder_that_cannot_be_written_fails_the_test_with_the_reason(project, pytester):
    pytester.path.joinpath("goldens").write_text("a file where the folder should be")
    result = project(ONE)
    result.assert_outcomes(failed=1)
    assert "there is none at" in result.stdout.str()
    assert "cannot be written" in result.stdout.str()
    result = project(None, "--parity-update")
    result.assert_outcomes(failed=1)
    assert "cannot be rewritten" in result.stdout.str()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_enough_to_hold_a_golden_and_not_to_rewrite_it(project, pytester):
    project(ONE)
    folder = pytester.path / "goldens/test_engine"
    folder.chmod(0o555)
    try:
        project(None).assert_outcomes(passed=1)
        result = project(FAULTY, "--parity-update")
        result.assert_outcomes(failed=1)
        assert "cannot be rewritten" in result.stdout.str()
    finally:
        folder.chmod(0o755)


def test_a_disk_that_fails_midway_leaves_the_old_golden(project, pytester, monkeypatch):
    project(ONE)
    path = pytester.path / "goldens/test_engine/test_forward.safetensors"
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("parity.golden.file.os.fsync", full)
    result = project(FAULTY, "--parity-update")
    result.assert_outcomes(failed=1)
    assert "No space left on device" in result.stdout.str()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


TRACED = """
from parity.probes import watch

def test_forward(parity_golden):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(100, 48), torch.nn.RMSNorm(48), torch.nn.Linear(48, 100))
    with watch(model, {"0": ("embed.out",), "1": ("final_norm",), "2": ("logits",)}) as seen, torch.no_grad():
        model(torch.tensor([list(range(3, 40))]))
    parity_golden.check(seen.trace(), positions=20)
"""
SCALED = (
    TRACED.replace("    with watch", "    model[1].register_forward_hook(scale)\n    with watch")
    + """
def scale(module, inputs, y):
    y = y.clone()
    y[:, 30] *= 1.01
    return y
"""
)


def test_a_trace_is_named_by_site_and_position_and_both_sides_are_written(project):
    project(TRACED).assert_outcomes(failed=1)
    project(None).assert_outcomes(passed=1)
    result = project(SCALED)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.search(r"worst: (final_norm|logits): position 30\b.*: [\d.]+ times its floor", text)
    command = re.search(r"investigate: (.*)", text)
    assert command
    shown = CliRunner().invoke(app, shlex.split(command[1])[1:])
    assert shown.exit_code == 1
    assert "position 30" in shown.stdout
    result = project(SCALED, "--parity-update")
    assert "2 of 3 moved" in result.stdout.str()
    project(None).assert_outcomes(passed=1)


MEASURED = """
from parity.golden import Calibration

def test_forward(parity_golden):
    exact = values().double()
    honest = lambda n: (values(n) * 1e-3 + exact).bfloat16()
    parity_golden.check(values().bfloat16(), calibration=Calibration(exact=lambda: exact, honest=honest, runs=3))
"""


def test_measure_adds_this_environment_to_the_table(project, pytester):
    project(MEASURED)
    path = pytester.path / "goldens/test_engine/test_forward.safetensors"
    golden = read_golden(path)
    elsewhere = {**golden.numerics, "isa": "AVX9000"}
    moved = replace(golden, numerics=elsewhere, measured=(replace(golden.measured[0], numerics=elsewhere),))
    write_golden(path, moved, replace=True)
    result = project(None, "--parity-measure")
    result.assert_outcomes(passed=1)
    assert "measured: goldens/test_engine/test_forward.safetensors: 2 environments in its table" in result.stdout.str()
    assert [one.numerics for one in read_golden(path).measured] == [elsewhere, golden.numerics]
    worse = MEASURED.replace("check(values().bfloat16()", "check(values().bfloat16() * 1.5")
    result = project(worse)
    result.assert_outcomes(failed=1)
    assert "environment, golden -> here: isa AVX9000 -> " in result.stdout.str()
    assert "measured on 3 distinct of 3 honest runs and 3 distinct of 3 honest runs" in result.stdout.str()
