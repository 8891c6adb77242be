"""Rows are called stale exactly when history shows in them."""

from __future__ import annotations

import pytest

from parity.fingerprint.causes import (
    CHUNK_BOUNDARY,
    NEVER_WRITTEN,
    ROW_RATIO,
    ROWS_STALE,
    ROWS_UNWRITTEN,
    SOFTMAX_SCALE,
    STALE,
)
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


def unwritten(stage: str, rows: int, layer: int = 0) -> Invariance:
    numbers = {"unwritten_rows": rows}
    return Invariance(
        "poison", Outcome.BROKEN, "filled", "Broken.", {"bytes": 8}, "promised bits", Site((layer,), stage), numbers
    )


@pytest.mark.parametrize("shape", [CHUNK_BOUNDARY, None])
def test_rows_that_come_out_as_they_were_filled_are_unwritten_whatever_their_error_looks_like(shape: str | None):
    finding = Finding("fault", "isolated replay", (0,), "moe.experts", cause=shape, alternatives=(ROW_RATIO,))
    settled = settle_memory(finding, [unwritten("moe.experts", 50)])
    assert settled.cause == ROWS_UNWRITTEN
    assert settled.alternatives == ((shape, ROW_RATIO) if shape else (ROW_RATIO,))
    assert "50 rows are never written" in settled.sentence
    stale = settle_memory(finding, [unwritten("moe.experts", 50), broken("history", "moe.experts")])
    assert stale.cause == ROWS_STALE


@pytest.mark.parametrize(
    "poison", [unwritten("moe.down", 50), unwritten("moe.experts", 0), unwritten("moe.experts", 5, 1)]
)
def test_poison_elsewhere_or_read_and_not_left_over_changes_nothing(poison: Invariance):
    finding = Finding("fault", "isolated replay", (0,), "moe.experts", cause=CHUNK_BOUNDARY)
    assert settle_memory(finding, [poison]) is finding
