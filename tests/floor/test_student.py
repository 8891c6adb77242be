"""Are the quantiles those of the printed tables?"""

from __future__ import annotations

import math

import pytest

from parity.errors import ValueRangeError
from parity.floor.student import upper_quantile


# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, upper critical values of Student's t; printed to 3
# decimals.
@pytest.mark.parametrize(
    ("level", "freedom", "value"),
    [
        (0.05, 1, 6.314), (0.05, 10, 1.812), (0.001, 2, 22.327), (0.001, 5, 5.893),
        (0.001, 7, 4.785), (0.001, 8, 4.501), (0.001, 30, 3.385), (0.025, 99, 1.984), (0.1, 3, 1.638),
    ],
)  # fmt: skip
def test_printed_table(level, freedom, value):
    assert upper_quantile(level, freedom) == pytest.approx(value, abs=6e-4)


def test_one_degree_has_a_closed_form():
    assert upper_quantile(1e-4, 1) == pytest.approx(math.tan(math.pi * (0.5 - 1e-4)), rel=1e-9)


@pytest.mark.parametrize(("level", "freedom"), [(0.5, 3), (0.0, 3), (0.001, 0)])
def test_misuse(level, freedom):
    with pytest.raises(ValueRangeError):
        upper_quantile(level, freedom)
