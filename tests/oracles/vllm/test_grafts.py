"""Does a tensor put into a packed step go on from there, and is what cannot be replaced refused?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import ProbeError, RunnerError
from parity.ladder.calibrate import Opening
from parity.ladder.replay_graft import ReplayGraft, replay_grafts
from parity.records import Rows
from parity.runner import CapturePlan, Graft, Request, Schedule
from parity.stages import QWEN3_MOE
from parity.trace import Trace
from parity_oracles.vllm.live import INNER
from parity_oracles.vllm.wire import read_line, write_line
from parity_oracles.vllm.wire_grafts import decode_grafts, encode_grafts

A, B = (7, 3, 11, 2, 5, 9, 1, 4, 8), (6, 2, 12)
PLAN = CapturePlan()
SHOWN = [stage for _, stage in QWEN3_MOE.sites(1)]
REPLACED = [s.name for s in SHOWN if s.name not in (*INNER, "moe.gate", "moe.up", "moe.act")]


def own(trace: Trace, stage: str, layer: int | None) -> list[Graft]:
    return [Graft(layer, stage, trace.tensor(c), c.rows) for c in trace.select(stage=stage, layer=layer)]


def logits(trace: Trace) -> torch.Tensor:
    return torch.cat([trace.tensor(c) for c in trace.select(stage="logits")])


@pytest.mark.parametrize("stage", REPLACED)
def test_a_sham_changes_no_bit_and_another_value_goes_on(toy: Any, stage: str) -> None:
    """In layer 1 where there are layers: chunked, with a decode step and a second request, which nothing reaches."""
    runner = toy(padding=2)
    layer = 1 if any(node.name == stage for node in QWEN3_MOE.layer) else None
    requests, schedule = [Request("a", A), Request("b", B)], Schedule(chunk=4, decode=1)
    alone = runner.forward(requests, schedule=schedule, capture=PLAN, graft=[])
    # One by one, as a run with grafts feeds them: batches of another size sum in another order.
    empty = own(alone, "logits", None)[:0]
    one_by_one = [runner.forward([r], schedule=schedule, capture=PLAN, graft=empty) for r in requests]
    (only, _), grafts = one_by_one, own(one_by_one[0], stage, layer)
    sham = runner.forward(requests, schedule=schedule, capture=PLAN, graft=grafts)
    before = torch.cat([logits(only), logits(one_by_one[1])])
    by_request = np.argsort([c.rows.request[0] for c in sham.select(stage="logits")], kind="stable")
    parts = [sham.tensor(c) for c in np.array(sham.select(stage="logits"), dtype=object)[by_request]]
    assert torch.equal(torch.cat(parts), before)
    moved = [Graft(g.layer, g.stage, g.tensor * 1.5 + 0.25, g.rows) for g in grafts]
    changed = runner.forward([requests[0]], schedule=schedule, capture=PLAN, graft=moved)
    assert not torch.equal(logits(changed), logits(only))
    seen = torch.cat([changed.tensor(c) for c in changed.select(stage=stage, layer=layer)])
    assert torch.equal(seen, torch.cat([g.tensor for g in moved]))


def test_rows_that_are_not_named_keep_their_value(toy: Any) -> None:
    runner = toy()
    trace = runner.forward([Request("a", A)], capture=PLAN)
    capture = trace.select(stage="attn.out", layer=0)[0]
    rows = Rows(np.zeros(1, np.int32), np.array([3]))
    graft = Graft(0, "attn.out", torch.ones(1, 12), rows)
    seen = runner.forward([Request("a", A)], capture=PLAN, graft=[graft])
    now = seen.tensor(seen.select(stage="attn.out", layer=0)[0])
    same = (now == trace.tensor(capture)).all(1)
    assert same.tolist() == [n != 3 for n in range(len(A))]
    assert (now[3] == 1).all()


@pytest.mark.parametrize("stage", sorted(INNER))
def test_what_cannot_be_replaced_is_said_and_refused(toy: Any, stage: str) -> None:
    runner = toy()
    assert stage in runner.describe().inner
    assert "graft" in runner.describe().can
    trace = runner.forward([Request("a", A)], capture=PLAN)
    with pytest.raises(RunnerError, match=f"a graft at {stage}: {INNER[stage][:10]}"):
        runner.forward([Request("a", A)], capture=PLAN, graft=own(trace, stage, None if stage == "logits" else 0))


def test_a_graft_for_a_row_that_never_comes_fails_the_run(toy: Any) -> None:
    rows = Rows(np.zeros(1, np.int32), np.array([40]))
    with pytest.raises(ProbeError, match="1 rows that this run never computed"):
        toy().forward([Request("a", A)], capture=PLAN, graft=[Graft(0, "attn.out", torch.ones(1, 12), rows)])


def test_an_error_inside_a_step_leaves_nothing_behind(toy: Any) -> None:
    """A graft whose tensor has another width is found out while the engine waits; the next run is as the first."""
    runner = toy()
    before = runner.forward([Request("a", A), Request("b", B)], capture=PLAN)
    rows = Rows(np.zeros(1, np.int32), np.array([3]))
    with pytest.raises(ProbeError):
        runner.forward([Request("a", A)], capture=PLAN, graft=[Graft(0, "attn.out", torch.ones(1, 5), rows)])
    after = runner.forward([Request("a", A), Request("b", B)], capture=PLAN)
    assert torch.equal(logits(after), logits(before))


def test_generation_goes_on_from_a_graft(toy: Any) -> None:
    runner = toy()
    trace = runner.forward([Request("a", A)], capture=PLAN)
    plain = runner.generate(Request("a", A), max_new_tokens=4)
    assert runner.generate(Request("a", A), max_new_tokens=4, graft=own(trace, "attn.q", 0)).ids == plain.ids
    moved = [Graft(0, "embed.out", -3 * g.tensor, g.rows) for g in own(trace, "embed.out", None)]
    moved = [Graft(None, g.stage, g.tensor, g.rows) for g in moved]
    assert runner.generate(Request("a", A), max_new_tokens=4, graft=moved).ids != plain.ids


class Doubled:
    """A graft computed from what the same pass showed: the norm's rows, twice over."""

    layer, stage, needs, history = 0, "attn.out", ((0, "attn.norm"),), False

    def compute(self, own: Any, tensor: torch.Tensor, seen: Trace) -> torch.Tensor:
        (norm,) = seen.select(stage="attn.norm", layer=0)
        return seen.tensor(norm) * 2


def test_a_graft_is_computed_from_the_step_in_progress(toy: Any) -> None:
    seen = toy().forward([Request("a", A)], schedule=Schedule(chunk=4), capture=PLAN, graft=[Doubled()])
    for norm, out in zip(seen.select(stage="attn.norm", layer=0), seen.select(stage="attn.out", layer=0), strict=True):
        assert torch.equal(seen.tensor(out), seen.tensor(norm) * 2)


def test_grafts_cross_the_pipe_unchanged(tmp_path: Path) -> None:
    rows = Rows(np.zeros(2, np.int32), np.array([0, 1]), np.array([0, 1], np.int32), np.array([3, 4], np.int32))
    plain = Graft(1, "moe.experts", torch.randn(2, 3).bfloat16(), rows, ((0, 2),))
    replay = ReplayGraft(1, "moe.experts", ("moe.down", "moe.experts"), Opening("recipe:m", {"recipe": "bf16"}),
                         "bf16", ((1, "mlp.norm"), (None, "embed.out")), True)  # fmt: skip
    message = read_line(write_line(encode_grafts([plain, replay], tmp_path / "grafts.safetensors")))
    back, computed = decode_grafts(message)
    assert isinstance(back, Graft)
    assert torch.equal(back.tensor, plain.tensor)
    assert (back.layer, back.stage, back.columns) == (1, "moe.experts", ((0, 2),))
    for name in ("request", "position", "slot", "expert"):
        assert np.array_equal(getattr(back.rows, name), getattr(rows, name))
    assert computed == replay
    assert decode_grafts(None) == []
    with pytest.raises(RunnerError, match="Doubled"):
        encode_grafts([Doubled()], tmp_path / "none")


def test_a_replay_reads_what_the_kernel_reads_where_it_hides_its_stages() -> None:
    inside = ("moe.gate", "moe.up", "moe.act")
    (graft,) = replay_grafts(
        [(1, "moe.down")], graph=QWEN3_MOE, layers=2, inner=frozenset(INNER), oracle=Opening("recipe:m"),
        recipe="bf16_vllm", unobservable=inside,
    )  # fmt: skip
    assert (graft.stage, graft.span) == ("moe.experts", ("moe.down", "moe.experts"))
    assert {stage for _, stage in graft.needs} == {"mlp.norm", "moe.topk_ids", "moe.down", "moe.topk_weights"}
