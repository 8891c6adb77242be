"""What does pytest get from the lab? The fixture `parity_golden`, its options, and a summary of what was rewritten.

Loaded by every pytest where the lab is installed: nothing heavy is imported until a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from parity.pytest_plugin.golden import ParityGolden

__all__ = ["parity_golden", "pytest_addoption", "pytest_terminal_summary"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "goldens of numbers, judged by noise floors (parity-lab)")
    group.addoption(
        "--parity-update",
        action="store_true",
        help="Write and rewrite goldens of the tests that run, and say by how many floors each has moved.",
    )
    group.addoption(
        "--parity-measure",
        action="store_true",
        help="Measure the floor of this environment for goldens with a calibration, and store it in them.",
    )
    group.addoption(
        "--parity-dump",
        metavar="DIR",
        default=None,
        help="Where tensors that do not hold their golden are written (default: pytest's temporary folder).",
    )
    parser.addini("parity_golden_max_bytes", "Largest golden that may be written, in bytes.", default=None)


@pytest.fixture
def parity_golden(request: pytest.FixtureRequest) -> ParityGolden:
    """Holds results against goldens stored beside the test: `parity_golden.check({"y": y})`."""
    from parity.pytest_plugin.golden import ParityGolden

    return ParityGolden(request)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from parity.pytest_plugin.summary import summary_lines

    lines = summary_lines(terminalreporter.stats)
    if lines:
        terminalreporter.section("parity goldens")
        for line in lines:
            terminalreporter.line(line)
