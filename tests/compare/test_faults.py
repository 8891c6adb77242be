"""Is a healthy FP8 engine within the floor, and each planted fault over it, where it was planted?"""

from __future__ import annotations

import pytest
import torch

from parity.compare import compare_traces, first_divergence
from parity.records import Verdict
from parity.stages import QWEN3_MOE

TOKENS, SEED = 500, 70


@pytest.fixture(scope="module")
def oracle(moe):
    return moe.forward(SEED, "fp32", tokens=TOKENS).trace()


def planted(moe, stage, layer, change):
    def wrap(at, index, value, geometry):
        if (at, index) != (stage, layer):
            return value
        value = value.clone()
        change(value, geometry.get("ids"))
        return value

    return moe.forward(SEED, "engine", wrap, tokens=TOKENS, decode=2)


def busiest(ids):
    return ids == ids.flatten().bincount().argmax()


def scaled(value, where, factor):
    value[where] = (value[where].float() * factor).to(value.dtype)


def one_row(value, ids):
    token, slot = busiest(ids).nonzero()[-1]
    value[token, slot] = 0


def expert(value, ids):
    scaled(value, busiest(ids), 1.05)


def columns(value, ids):
    value[..., :128] = (value[..., :128].float() * 1.03).to(value.dtype)


def head(value, ids):
    value[:, 64:128] = (value[:, 64:128].float() * 1.03).to(value.dtype)


def whole(value, ids):
    scaled(value, slice(None), 1.01)


def rows(value, ids):
    value[[100, 200]] = value[[200, 100]]


# Measured with the floor of the fixture: 17, 11, 3.0, 3.7, 5, 120 and 190 times the gate.
FAULTS = {
    "one lost row": ("moe.gate", 1, one_row, "row"),
    "one expert 5 % too large": ("moe.up", 2, expert, "expert"),
    "a column block 3 % too large": ("moe.gate", 1, columns, "columns"),
    "the same in a dense projection": ("attn.out", 3, columns, "columns"),
    "one head 3 % too large": ("attn.q", 0, head, "head"),
    "routed output 1 % too large": ("moe.experts", 2, whole, "tensor"),
    "two rows swapped": ("attn.norm", 1, rows, "row"),
}


@pytest.mark.parametrize("seed", [60, 61, 62, 63])
def test_the_healthy_engine_is_within_the_floor(moe, floor, seed):
    run = moe.forward(seed, "engine", tokens=TOKENS, decode=2)
    chained = compare_traces(oracle=moe.forward(seed, "fp32", tokens=TOKENS).trace(), sut=run.trace(), floor=floor)
    isolated = moe.compare_isolated(run, floor)
    for comparison in (*chained.comparisons, *isolated):
        assert comparison.verdict.healthy, (comparison.mode, comparison.name, comparison.phase, comparison.reason)
    assert first_divergence(chained, QWEN3_MOE) is None
    assert chained.healthy


@pytest.mark.parametrize("fault", FAULTS)
def test_isolated_error_is_over_the_floor_at_the_fault_and_nowhere_else(moe, floor, fault):
    stage, layer, change, kind = FAULTS[fault]
    comparisons = moe.compare_isolated(planted(moe, stage, layer, change), floor)
    over = {(c.stage, c.layer) for c in comparisons if c.verdict.faulty}
    assert over == {(stage, layer)}
    worst = {s.kind: s for c in comparisons if c.verdict.faulty for s in c.worst}
    assert worst[kind].over_floor is not None
    assert worst[kind].over_floor > 1.5


@pytest.mark.parametrize("fault", ["one lost row", "one expert 5 % too large", "two rows swapped"])
def test_chained_error_is_first_over_the_floor_at_the_fault(moe, floor, oracle, fault):
    stage, layer, change, _ = FAULTS[fault]
    summary = compare_traces(oracle=oracle, sut=planted(moe, stage, layer, change).trace(), floor=floor)
    first = first_divergence(summary, QWEN3_MOE)
    assert first is not None
    assert (first.stage, first.layer) == (stage, layer)
    assert summary.diverged


def test_lost_row_is_named_by_token_and_by_its_row_in_the_expert(moe, floor):
    run = planted(moe, "moe.gate", 1, one_row)
    (record,) = (c for c in moe.compare_isolated(run, floor) if c.verdict.faulty)
    row = next(s for s in record.worst if s.kind == "row")
    ids = next(
        run.tensors[c.number] for c in run.captures if (c.stage, c.layer, c.phase) == ("moe.topk_ids", 1, record.phase)
    )
    e = int(next(w for w in row.where.split(", ") if w.startswith("expert")).split()[1])
    assert f"its row {int((ids == e).sum()) - 1}" in row.where
    assert row.metrics["rel_l2"] == pytest.approx(1.0)
    assert row.metrics["norm_ratio"] == 0


def test_wrong_experts_are_no_near_tie(moe, floor, oracle):
    """Ten tokens go to the worst expert instead of their second best."""

    def wrong(value, ids):
        for t in range(300, 310):
            value[t, 1] = next(e for e in range(7, -1, -1) if e not in value[t].tolist())

    summary = compare_traces(oracle=oracle, sut=planted(moe, "moe.topk_ids", 1, wrong).trace(), floor=floor)
    first = first_divergence(summary, QWEN3_MOE)
    assert first is not None
    assert first.name == "L01.moe.topk_ids"
    assert first.worst[0].by == "margin"
    assert 300 <= first.worst[0].index < 310
    assert first.whole["flips"] > first.whole["flips_excused"]


def test_without_a_floor_everything_is_measured_and_nothing_judged(moe, oracle):
    summary = compare_traces(oracle=oracle, sut=planted(moe, "moe.gate", 1, one_row).trace())
    assert set(summary.verdicts) <= {Verdict.NO_FLOOR.value, Verdict.MATCH.value}
    gate = next(c for c in summary.comparisons if c.name == "L01.moe.gate")
    assert gate.whole["cosine"] > 0.99
    assert {s.kind for s in gate.worst} >= {"row", "expert", "columns", "tensor"}
    assert torch.isfinite(torch.tensor([s.metrics["rel_l2"] for s in gate.worst])).all()
