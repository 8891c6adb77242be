"""Which file belongs to which check: parameters, classes, several checks of a test, names that collide, workers."""

from __future__ import annotations

from parity.pytest_plugin.paths import LONGEST, safe_name, shorten

pytest_plugins = "pytester"

MANY = """
import pytest

class TestKernel:
    @pytest.mark.parametrize("tile", [16, 17], ids=["a", "b/../c d"])
    def test_rows(self, parity_golden, tile):
        parity_golden.check(values(tile))
        parity_golden.check(values(tile + 1), "second: <one>")
        parity_golden.check(values(tile + 2))
"""


def test_every_check_has_a_file_of_its_own(project, pytester):
    # Each run writes the next missing golden and fails there.
    for _ in range(3):
        project(MANY).assert_outcomes(failed=2)
    found = sorted(p.name for p in (pytester.path / "goldens/test_engine").iterdir())
    assert found == sorted(
        f"TestKernel.test_rows-{test}{check}.safetensors"
        for test in ("a", "b_.._c_d")
        for check in ("", "--2", "--second_one_")
    )
    project(MANY).assert_outcomes(passed=2)


def test_two_parameters_with_one_safe_name_are_refused(project, pytester):
    source = """
import pytest

@pytest.mark.parametrize("x", ["a/b", "a?b", "A/B"])
def test_rows(parity_golden, x):
    parity_golden.check(values())
"""
    result = project(source)
    result.assert_outcomes(failed=3)
    assert result.stdout.str().count("a golden of this check alone; found the golden of") >= 2
    # Also one at a time, as in different worker processes, and never by rewriting.
    result = project(None, "test_engine.py::test_rows[a?b]", "--parity-update")
    result.assert_outcomes(failed=1)
    assert "found the golden of test_engine::test_rows[a/b]" in result.stdout.str()


def test_two_checks_of_one_name_are_refused(project):
    source = "def test_rows(parity_golden):\n    for n in range(2):\n        parity_golden.check(values(n), 'x')\n"
    result = project(source, "--parity-update")
    result.assert_outcomes(failed=1)
    assert "a second check of this test with the same name" in result.stdout.str()


def test_a_renamed_tests_golden_is_not_anothers(project, pytester):
    project("def test_old(parity_golden):\n    parity_golden.check(values())\n")
    folder = pytester.path / "goldens/test_engine"
    (folder / "test_old.safetensors").rename(folder / "test_new.safetensors")
    result = project("def test_new(parity_golden):\n    parity_golden.check(values())\n")
    result.assert_outcomes(failed=1)
    assert "delete the file if the test was renamed" in result.stdout.str()


def test_a_test_that_is_run_again_still_fails_for_its_missing_golden(project, pytester):
    pytester.makeconftest(
        """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    from _pytest.runner import runtestprotocol
    for _ in range(2):
        item._initrequest()
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
    )
    project("def test_rows(parity_golden):\n    parity_golden.check(values())\n").assert_outcomes(failed=2)


def test_workers_write_once_and_tell_the_process_that_prints(project, pytester):
    source = """
import pytest

@pytest.mark.parametrize("n", range(8))
def test_rows(parity_golden, n):
    parity_golden.check(values(n))
"""
    result = project(source, "-p", "xdist.plugin", "-n", "2")
    result.assert_outcomes(failed=8)
    folder = pytester.path / "goldens/test_engine"
    assert sorted(p.name for p in folder.iterdir()) == [f"test_rows-{n}.safetensors" for n in range(8)]
    assert result.stdout.str().count("\nwritten: ") == 8
    project(None).assert_outcomes(passed=8)


def test_safe_names():
    assert safe_name("test_x[bf16-3]") == "test_x-bf16-3"
    assert safe_name("..") == "_"
    assert safe_name("") == "_"
    assert safe_name("TestA::test[\n/]") == "TestA.test-_"
    assert len(shorten("x" * 400)) == LONGEST
    assert shorten("x" * 400) != shorten("x" * 401)
    assert shorten("x" * LONGEST) == "x" * LONGEST
