"""Is a stage's error split rightly into inherited and added: what is refused, and what does a free router hide?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.errors import UsageError
from parity.ladder.attribution import Attribution, attribute
from parity.ladder.replay import Replay
from parity.ladder.replay_trace import replay_trace
from parity.ladder.sweep import oracle_trace, routing_by_layer, sweep_free
from parity.runner import CapturePlan, Request, open_runner
from parity.trace import MemoryTrace, Trace

FACTOR = 1.5
"""Of the attention output in `faulty_trace`."""


@pytest.fixture(scope="module")
def rows(faulty_trace: Trace, exact: Any) -> dict[str, Attribution]:
    return {row.name: row for row in attribute(Replay(faulty_trace, exact), oracle_trace(exact, faulty_trace))}


def test_the_stage_that_adds_is_apart_from_those_that_inherit(rows: dict[str, Attribution]):
    adds, shows = rows["L01.attn.out"], rows["L01.resid.mid"]
    # x = 1.5 y: |x - y| / |y| is a half, less the recipe's own noise of a few percent.
    assert adds.added == pytest.approx(FACTOR - 1, abs=0.05)
    assert adds.distance == pytest.approx(FACTOR - 1, abs=0.01)
    assert adds.inherited is not None
    assert adds.inherited < 0.2 < adds.shown  # type: ignore[operator]
    assert shows.added is not None
    assert shows.added < 0.01
    assert shows.shown == pytest.approx(shows.inherited, rel=0.05)
    assert shows.shown is not None
    assert shows.shown > 10 * shows.added


def test_amplification_is_error_out_over_error_in(rows: dict[str, Attribution]):
    row = rows["L01.attn.out"]
    assert row.error_in is not None
    assert row.amplification == pytest.approx(row.shown / row.error_in)  # type: ignore[operator]
    assert row.amplification is not None
    assert row.amplification > 2, "the stage that adds puts out more error than it gets"
    first = rows["embed.out"]
    assert first.amplification is None
    assert first.added == pytest.approx(0, abs=1e-6)


def test_before_the_fault_nothing_is_added_that_the_recipe_does_not_add(rows: dict[str, Attribution]):
    early = [row for name, row in rows.items() if name.startswith("L00")]
    assert len(early) > 15
    assert max(row.distance for row in early if row.distance is not None) < 0.02


def test_free_judging_counts_what_the_flipped_router_did(healthy_trace: Trace, exact: Any):
    """The free oracle chooses its own experts: a SUT that sends half of its tokens elsewhere has them excluded."""
    free = routing_by_layer(sweep_free(exact, healthy_trace, floor=None))
    assert [one.layer for one in free] == [0, 1]
    tensors = {capture.number: healthy_trace.tensor(capture) for capture in healthy_trace.captures}
    (ids,) = healthy_trace.select(stage="moe.topk_ids", layer=0)
    experts = int(healthy_trace.run.hyper["experts"])
    moved = tensors[ids.number].clone()
    moved[::2] = (moved[::2] + 1) % experts
    tensors[ids.number] = moved
    flipped = routing_by_layer(
        sweep_free(exact, MemoryTrace(healthy_trace.run, healthy_trace.captures, tensors), floor=None)
    )
    assert flipped[0].overlap < free[0].overlap - 0.2
    assert flipped[0].complete < 0.6 < free[0].complete
    assert flipped[1].overlap == free[1].overlap


def test_a_trace_without_inputs_is_refused(fp8_model: Path, request_160: Request, exact: Any):
    trace = open_runner(f"recipe:{fp8_model}").forward([request_160], capture=CapturePlan(stages=("moe.down",)))
    with pytest.raises(UsageError, match="together with all that it reads"):
        replay_trace(trace, exact)


@pytest.mark.parametrize(
    ("layers", "stages", "said"), [((9,), (), "layers 0..1"), ((), ("moe.nothing",), "a stage of this family")]
)
def test_a_site_that_does_not_exist_is_refused(
    healthy_trace: Trace, exact: Any, layers: tuple[int, ...], stages: tuple[str, ...], said: str
):
    with pytest.raises(UsageError, match=said):
        replay_trace(healthy_trace, exact, layers=layers, stages=stages)


def test_shown_is_none_where_the_oracle_has_no_such_rows(healthy_trace: Trace, exact: Any):
    truth = oracle_trace(exact, healthy_trace)
    kept = MemoryTrace(
        truth.run,
        tuple(c for c in truth.captures if c.stage != "attn.out"),
        {c.number: truth.tensor(c) for c in truth.captures},
    )
    row = next(r for r in attribute(Replay(healthy_trace, exact), kept) if r.stage == "attn.out")
    assert row.shown is None
    assert row.amplification is None
    assert row.added is not None
    assert np.isfinite(row.added)
