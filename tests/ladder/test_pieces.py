"""Is a site outside the layers judged the same in pieces of its rows as whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from parity.floor import Floor
from parity.ladder import Replay, replay
from parity.ladder.attribution import attribute
from parity.ladder.sweep import oracle_trace
from parity.records import Comparison, Verdict
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.trace import MemoryTrace, Trace
from tests.ladder.conftest import random_request

WIDE = 80
"""The random model's vocabulary: elements of a row of logits."""


@pytest.fixture(scope="module")
def two(fp8_model: Path) -> Trace:
    """Two requests of other lengths, in chunks and with decode steps."""
    emulation = open_runner(f"recipe:{fp8_model}", order=1)
    requests = [random_request(1, 41), Request("short", random_request(2, 9).ids)]
    return emulation.forward(requests, schedule=Schedule(chunk=16, decode=2), capture=CapturePlan())


def in_pieces(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Pieces of so many positions of both requests."""
    monkeypatch.setattr(replay, "PIECE_BYTES", rows * 2 * WIDE * 4)


def with_logits(trace: Trace, *, wrong: tuple[int, int] | None = None, without: tuple[int, int] | None = None) -> Trace:
    """The trace with the logits of one (request, position) five times too large, or left out."""
    captures, tensors = [], {capture.number: trace.tensor(capture) for capture in trace.captures}
    for capture in trace.captures:
        if capture.stage == "logits":
            at = list(zip(capture.rows.request.tolist(), capture.rows.position.tolist(), strict=True))
            tensor = tensors[capture.number].clone()
            tensor[[place == wrong for place in at]] *= 5
            kept = [number for number, place in enumerate(at) if place != without]
            tensors[capture.number] = tensor[kept]
            capture = type(capture)(
                **{
                    **capture.__dict__,
                    "rows": capture.rows.take(torch.tensor(kept).numpy()),
                    "shape": (len(kept), *capture.shape[1:]),
                }
            )
        captures.append(capture)
    return MemoryTrace(trace.run, tuple(captures), tensors)


def told(record: Comparison) -> list[str]:
    """The worst slices above their gate, and in the record's own words."""
    return [record.reason, *(one.where for one in record.worst if (one.over_floor or 0) > 1)]


@pytest.mark.parametrize("rows", [1, 7, 16, 40])
@pytest.mark.parametrize("wrong", [None, (0, 3), (0, 37), (1, 5)])
def test_pieces_say_what_the_whole_says(
    two: Trace, exact: Any, floor: Floor, monkeypatch: pytest.MonkeyPatch, rows: int, wrong: tuple[int, int] | None
):
    trace = with_logits(two, wrong=wrong)
    whole = Replay(trace, exact).judge(*Replay(trace, exact).requests_at(None, "logits"), floor=floor)
    in_pieces(monkeypatch, rows)
    pieces = list(Replay(trace, exact).pieces(None, "logits"))
    assert len(pieces) == -(-41 // rows)
    assert [len(sites) for sites in pieces] == [2 if at * rows < 9 else 1 for at in range(len(pieces))]
    found = Replay(trace, exact).judge_site(None, "logits", floor=floor)
    scores = [[record.over_floor or 0.0 for record in records] for records in (found, whole)]
    # A product of one row is summed in another order than one of many: some hundredths of a gate.
    assert scores[0] == pytest.approx(scores[1], rel=1e-2, abs=0.05)
    assert [(r.phase, r.verdict, r.rows) for r in found] == [(r.phase, r.verdict, r.rows) for r in whole]
    assert (Verdict.EXCEEDS_FLOOR in {record.verdict for record in found}) is (wrong is not None)
    if wrong is not None:
        assert told(found[0]) == told(whole[0])


@pytest.mark.parametrize("gap", [(0, 20), (0, 0), (1, 4)])
def test_a_position_that_is_missing_is_no_clean_bill(
    two: Trace, exact: Any, floor: Floor, monkeypatch: pytest.MonkeyPatch, gap: tuple[int, int]
):
    """The first position may be absent: a prefix cache has it."""
    trace = with_logits(two, without=gap)
    in_pieces(monkeypatch, 1)
    verdicts = {record.verdict for record in Replay(trace, exact).judge_site(None, "logits", floor=floor)}
    assert (Verdict.NOT_COMPARED in verdicts) is (gap[1] > 0)


def test_error_is_split_alike_in_pieces(two: Trace, exact: Any, monkeypatch: pytest.MonkeyPatch):
    trace = with_logits(two, wrong=(0, 37))
    truth = oracle_trace(exact, trace)
    whole = [row for row in attribute(Replay(trace, exact), truth) if row.layer is None]
    in_pieces(monkeypatch, 5)
    pieces = [row for row in attribute(Replay(trace, exact), truth) if row.layer is None]
    assert [(row.name, row.phase) for row in pieces] == [(row.name, row.phase) for row in whole]
    for column in ("shown", "inherited", "added", "distance", "error_in"):
        theirs, ours = ([getattr(row, column) or 0.0 for row in rows] for rows in (whole, pieces))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


def test_stages_inside_the_layers_come_whole(two: Trace, exact: Any, monkeypatch: pytest.MonkeyPatch):
    in_pieces(monkeypatch, 1)
    assert [len(sites) for sites in Replay(two, exact).pieces(0, "attn.q")] == [2]
    assert [len(sites) for sites in Replay(two, exact).pieces(1, "attn.context")] == [2]
