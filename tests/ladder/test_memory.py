"""Rows are called stale exactly when history shows in them."""

from __future__ import annotations

import pytest

from parity.fingerprint.causes import NEVER_WRITTEN, ROWS_STALE, ROWS_UNWRITTEN, SOFTMAX_SCALE, STALE
from parity.invariance import Invariance, Outcome
from parity.ladder.memory import settle_memory
from parity.records import Finding, Site


def broken(name: str, stage: str) -> Invariance:
    return Invariance(
        name, Outcome.BROKEN, "ran before", "row 3 differs", {"requests": 2}, "promised bits", Site((0,), stage)
    )


@pytest.mark.parametrize(("cause", "stale"), [(NEVER_WRITTEN, STALE), (ROWS_UNWRITTEN, ROWS_STALE)])
def test_history_makes_unwritten_rows_stale(cause: str, stale: str):
    finding = Finding("fault", "isolated replay", (0,), "moe.gate", cause=cause, sentence="Rows are lost.")
    settled = settle_memory(finding, [broken("poison", "moe.gate"), broken("history", "moe.gate")])
    assert settled.cause == stale
    assert settled.alternatives == (cause,)
    assert "row 3 differs" in settled.sentence


@pytest.mark.parametrize(
    "invariances",
    [
        [],
        [broken("poison", "moe.gate")],
        [broken("history", "moe.down")],
        [Invariance("history", Outcome.HELD, "ran before", "same bits", {"requests": 2})],
        [Invariance("history", Outcome.NOT_RUN, "ran before", "cannot")],
    ],
)
def test_without_history_at_the_stage_nothing_changes(invariances: list[Invariance]):
    finding = Finding("fault", "isolated replay", (0,), "moe.gate", cause=NEVER_WRITTEN)
    assert settle_memory(finding, invariances) is finding
    other = Finding("fault", "isolated replay", (0,), "moe.gate", cause=SOFTMAX_SCALE)
    assert settle_memory(other, [broken("history", "moe.gate")]) is other
