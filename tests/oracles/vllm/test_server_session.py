"""Does a capture around somebody else's requests give the trace that the runner's own call gives?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parity.align import align
from parity.compare import compare_traces
from parity.errors import ProbeError, UsageError
from parity.floor import derive_floor
from parity.runner import CapturePlan, Request
from parity.trace import Trace
from parity_oracles.vllm.server import Session

A, B = (7, 3, 11, 2, 5, 9, 1, 4, 8), (7, 3, 12, 6, 1)
SAME = derive_floor("derived:float32:64")


def served(runner: Any, asked: dict[str, tuple[int, ...]], *, new: int, logits: bool = False) -> Trace:
    """The requests as a server's clients send them, while a session watches."""
    engine = runner.engine
    session = Session(runner, lambda: engine._packed, lambda name: asked[name.removesuffix("-xyz")])
    session.start()
    for name, ids in asked.items():
        engine.add(name, ids, new=new, prompt_logits=logits)
    while engine.step() is not None:
        pass
    return session.stop()


def test_requests_of_others_are_filed_with_what_they_went_on_with(toy: Any) -> None:
    runner = toy(padding=2)
    trace = served(runner, {"a": A, "b": B}, new=3)
    assert trace.complete
    made = [runner.generate(Request("x", ids), max_new_tokens=3).ids for ids in (A, B)]
    assert trace.run.requests == tuple((*ids, *new[:-1]) for ids, new in zip((A, B), made, strict=True))
    assert trace.run.flags["absent"] == {"a-xyz": {"logits": 8}, "b-xyz": {"logits": 4}}
    for number, ids in enumerate(trace.run.requests):
        alone = runner.forward([Request("x", ids)], capture=CapturePlan())
        for stage, layer in (("attn.k_rope", 1), ("moe.down", 0), ("resid.out", 1)):
            seen, right = align(trace, stage, layer, number), align(alone, stage, layer, 0)
            assert seen is not None
            assert right is not None
            assert seen.position.tolist() == list(range(len(ids)))
            assert torch.allclose(seen.tensor.float(), right.tensor.float(), atol=1e-5), stage
        phases = [c.phase for c in trace.select(stage="attn.q", layer=0) if number in c.rows.request]
        assert phases == ["prefill", "decode", "decode"]


def test_it_compares_with_an_oracle_of_the_same_ids(toy: Any) -> None:
    runner = toy()
    trace = served(runner, {"a": A}, new=2, logits=True)
    truth = runner.forward([Request("a-xyz", trace.run.requests[0])], capture=CapturePlan())
    assert compare_traces(oracle=truth, sut=trace, floor=SAME).healthy


def test_logits_that_the_engine_throws_away_at_the_end_of_a_chunk_are_left_out(toy: Any) -> None:
    runner = toy()
    with runner.engine.chunked(4):
        trace = served(runner, {"a": A, "b": B}, new=3)
    assert trace.run.flags["absent"] == {"a-xyz": {"logits": 8}, "b-xyz": {"logits": 4}}
    for number, first in enumerate((8, 4)):
        seen = align(trace, "logits", None, number)
        assert seen is not None
        assert seen.position.tolist() == list(range(first, len(trace.run.requests[number])))
    requests = [Request(name, ids) for name, ids in zip(trace.run.request_names, trace.run.requests, strict=True)]
    truth = runner.forward(requests, capture=CapturePlan())
    found = compare_traces(oracle=truth, sut=trace, floor=SAME)
    assert found.healthy, found.verdicts


def test_rows_under_another_requests_name_are_refused(toy: Any) -> None:
    with pytest.raises(ProbeError, match="ids of request"):
        served(toy(swapped=True), {"a": A, "b": B}, new=2)


def test_nothing_between_start_and_stop_is_no_trace(toy: Any) -> None:
    runner = toy()
    with pytest.raises(UsageError, match="a request between start and stop"):
        served(runner, {}, new=1)
    assert "compute_logits" not in vars(runner.engine.model)


def test_a_request_that_was_on_its_way_before_is_refused(toy: Any) -> None:
    runner = toy()
    engine = runner.engine
    engine.add("a", A, new=3, prompt_logits=False)
    engine.step()
    session = Session(runner, lambda: engine._packed, lambda name: {"b-xyz": B}.get(name, ()))
    session.start()
    engine.add("b", B, new=2, prompt_logits=False)
    while engine.step() is not None:
        pass
    with pytest.raises(UsageError, match="on the way before: a-xyz"):
        session.stop()
