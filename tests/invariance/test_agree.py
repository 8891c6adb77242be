"""The comparison of two arms: bits, distances, missing sites, near-ties, and the rows that are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.errors import UsageError
from parity.invariance import Invariance, Outcome, agree
from parity.invariance.rules import unit
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run, Site
from parity.stages import term
from parity.trace import MemoryTrace

RECIPE = Recipe("bf16", "bf16", "bf16", "bf16", "fp32", "bf16", "bf16")
HERE = Environment("3", "2", None, None, "", "", 1, "cpu", False)
T = 5


def trace(**tensors: torch.Tensor) -> MemoryTrace:
    """A one-layer trace of T tokens; `moe_gate` stands for moe.gate."""
    captures, payload = [], {}
    for number, (name, tensor) in enumerate(tensors.items()):
        stage = name.replace("_", ".", 1)
        rows = Rows(np.zeros(T, np.int32), np.arange(T))
        geometry = {}
        if stage == "moe.gate":  # two slots of one expert each, sorted by expert
            two = np.repeat([0, 1], T).astype(np.int32)
            rows = Rows(np.zeros(2 * T, np.int32), np.tile(np.arange(T), 2), two, two)
            geometry = {"expert_offsets": [0, T, 2 * T]}
        axes = term(stage).axes
        dtype = str(tensor.dtype).removeprefix("torch.")
        captures.append(Capture(number, stage, 0, "prefill", 0, 0, axes, dtype, tuple(tensor.shape), rows, geometry))
        payload[number] = tensor
    run = Run("qwen3_moe", "m", 1, ("a",), ((1,) * T,), RECIPE, Lineage("x"), HERE)
    return MemoryTrace(run, tuple(captures), payload)


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bfloat16)


def test_equal_runs_agree_and_are_counted():
    found = agree(trace(attn_out=ones(T, 8)), trace(attn_out=ones(T, 8)))
    assert (found.first, found.sites, found.rows, found.worst) == (None, 1, T, 0.0)


def test_the_first_in_order_of_computation_is_named_and_not_the_first_captured():
    base = trace(attn_out=ones(T, 8), attn_norm=ones(T, 8))
    turned = trace(attn_out=ones(T, 8) * 2, attn_norm=ones(T, 8) * 2)
    found = agree(base, turned)
    assert [one.stage for one in found.differences] == ["attn.norm", "attn.out"]


def test_nan_is_a_difference_and_equal_nans_are_the_same_bits():
    bad = ones(T, 8)
    bad[3, 2] = torch.nan
    found = agree(trace(attn_out=ones(T, 8)), trace(attn_out=bad)).first
    assert found is not None
    assert found.rel_l2 == float("inf")
    assert found.slice.positions == (3, 4)
    assert agree(trace(attn_out=bad), trace(attn_out=bad.clone())).first is None
    # Within a distance too: NaN is not within anything.
    assert agree(trace(attn_out=ones(T, 8)), trace(attn_out=bad), within=lambda *_: 1.0).first is not None


def test_a_distance_allows_what_is_below_it_and_nothing_above():
    turned = ones(T, 8)
    turned[1] *= 1 + 2.0**-6
    for limit, differs in ((2.0**-5, False), (2.0**-7, True), (0.0, True)):
        found = agree(trace(attn_out=ones(T, 8)), trace(attn_out=turned), within=lambda *_, limit=limit: limit)
        assert (found.first is not None) is differs
        assert found.worst == pytest.approx(2.0**-6)


def test_expert_rows_are_named_by_their_number_inside_the_expert():
    turned = ones(2 * T, 4)
    turned[T + 3 :] = 0
    found = agree(trace(moe_gate=ones(2 * T, 4)), trace(moe_gate=turned)).first
    assert found is not None
    assert (found.slice.experts, found.slice.rows, found.by_expert) == ((1,), (3, 4), {1: (3, 4, 2)})
    assert "experts 1 (its rows 3..4)" in found.words()


def test_heads_are_named():
    turned = ones(T, 3, 4)
    turned[2, 1] = 0
    found = agree(trace(attn_context=ones(T, 3, 4)), trace(attn_context=turned)).first
    assert found is not None
    assert found.slice.heads == (1,)
    assert found.slice.rows == (2,)


def test_a_site_or_row_that_one_run_lacks_is_a_difference():
    both = trace(attn_norm=ones(T, 8), attn_out=ones(T, 8))
    found = agree(both, trace(attn_norm=ones(T, 8))).first
    assert found is not None
    assert "one of both runs only" in found.words()
    short = trace(attn_out=ones(T, 8))
    capture = replace(short.captures[0], rows=short.captures[0].rows.take(np.arange(3)), shape=(3, 8))
    fewer = MemoryTrace(short.run, (capture,), {0: ones(3, 8)})
    found = agree(trace(attn_out=ones(T, 8)), fewer).first
    assert found is not None
    assert "lacks 2 rows" in found.words()
    other = agree(trace(attn_out=ones(T, 8)), trace(attn_out=ones(T, 9))).first
    assert other is not None
    assert "has rows of" in other.words()


def test_ids_may_differ_by_a_near_tie_only_where_a_distance_is_allowed():
    ids, other = (torch.tensor([[0, second]] * T, dtype=torch.int32) for second in (1, 2))
    near, clear = (torch.tensor([[3.0, 1.0, 1.0 - gap]] * T) for gap in (1e-6, 0.5))
    for logits, limit, excused in ((near, 1e-4, T), (clear, 1e-4, 0), (near, 0.0, 0)):
        found = agree(
            trace(moe_router_logits=logits, moe_topk_ids=ids),
            trace(moe_router_logits=logits, moe_topk_ids=other),
            within=lambda *_, limit=limit: limit,
        )
        assert found.excused == excused
        assert (found.first is None) is bool(excused)


def test_a_verdict_without_what_it_needs_cannot_be_built():
    for outcome, site, evidence, sentence in (
        (Outcome.HELD, None, {}, "Held."),
        (Outcome.BROKEN, None, {"x": 1}, "Broken."),
        (Outcome.HELD, Site((), "logits"), {"x": 1}, "Held."),
        (Outcome.NOT_RUN, None, {}, ""),
    ):
        with pytest.raises(UsageError, match="invariance x"):
            Invariance("x", outcome, "knob", sentence, evidence, site=site)
    assert Invariance("x", Outcome.BROKEN, "k", "B.", {"x": 1}, site=Site((2,), "moe.gate")).where == "L02.moe.gate"


def test_the_unit_roundoff_is_that_of_the_dtype():
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn):
        # finfo.eps is the distance from 1 to the next number: twice the largest relative error of rounding.
        assert unit(dtype) == torch.finfo(dtype).eps / 2
