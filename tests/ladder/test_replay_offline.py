"""Does a replay offline, judged by a floor, name the first stage that adds error, before anything shows?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from parity.floor import Floor
from parity.ladder.replay_trace import replay_trace
from parity.ladder.sweep import sweep_free
from parity.records import Verdict
from parity.runner import CapturePlan, Graft, Request, open_runner
from parity.trace import Trace


def test_offline_replay_names_the_first_that_adds(faulty_trace: Trace, healthy_trace: Trace, exact: Any, floor: Floor):
    found = replay_trace(faulty_trace, exact, floor=floor)
    assert found.first.adds == "L01.attn.out"
    assert found.adds_error
    assert "L01.attn.out" in found.sentence()
    clean = replay_trace(healthy_trace, exact, floor=floor, layers=(1,))
    assert clean.first.adds is None
    assert not clean.adds_error
    assert {row.layer for row in clean.rows} == {1}


def test_an_error_can_be_added_before_it_shows(fp8_model: Path, request_160: Request, exact: Any, floor: Floor):
    """1 % in one expert's down projection: below the chained floor everywhere, above the isolated one at its site."""
    own = open_runner(f"recipe:{fp8_model}", order=1)
    trace = own.forward([request_160], capture=CapturePlan())
    (capture,) = trace.select(stage="moe.down", layer=1)
    wrong = trace.tensor(capture).float().clone()
    wrong[torch.from_numpy(capture.rows.expert == 1)] *= 1.01  # type: ignore[arg-type]
    graft = Graft(1, "moe.down", wrong.bfloat16(), capture.rows)
    faulty = own.forward([request_160], capture=CapturePlan(), graft=[graft])
    first = replay_trace(faulty, exact, floor=floor).first
    assert first.adds == "L01.moe.down"
    assert first.shows is None


def test_free_judging_without_a_free_floor_measures_and_does_not_judge(faulty_trace: Trace, exact: Any, floor: Floor):
    without = replace(floor, gates={mode: gate for mode, gate in floor.gates.items() if mode != "free"})
    for unjudging in (without, None):
        records = sweep_free(exact, faulty_trace, floor=unjudging).comparisons
        assert Verdict.NO_FLOOR in {record.verdict for record in records}
        judged = [record for record in records if record.verdict in (Verdict.EXCEEDS_FLOOR, Verdict.WITHIN_FLOOR)]
        # A choice of experts is compared by margins, not by a scale.
        assert {record.stage for record in judged} <= {"moe.topk_ids"}
