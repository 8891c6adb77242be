"""Is the list of causes closed: each constant once, each with its explanation?"""

from __future__ import annotations

from parity.fingerprint import causes


def test_every_constant_is_a_cause_and_every_cause_a_constant():
    constants = [value for name, value in vars(causes).items() if name.isupper() and isinstance(value, str)]
    assert len(constants) == len(set(constants))
    assert set(constants) == set(causes.CAUSES)
    assert all(about.endswith(".") for about in causes.CAUSES.values())
