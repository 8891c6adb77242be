"""Does every declared site get exactly one record a phase, whatever is missing, filtered, reordered or refused?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.compare import compare_traces, ranges, sample_traces, traces
from parity.errors import TraceError, UsageError
from parity.records import Lineage, Verdict
from parity.trace import MemoryTrace

TOKENS = 40


@pytest.fixture(scope="module")
def runs(moe):
    return moe.forward(1, "fp32", tokens=TOKENS), moe.forward(1, "engine", tokens=TOKENS, decode=2)


def without(run, drop) -> MemoryTrace:
    """The run's trace without the captures that `drop` says; what was declared stays declared."""
    trace = run.trace()
    return MemoryTrace(trace.run, tuple(c for c in trace.captures if not drop(c)), run.tensors)


def changed(run, **fields) -> MemoryTrace:
    trace = run.trace()
    return MemoryTrace(replace(trace.run, **fields), trace.captures, run.tensors)


def of(summary, name, phase="prefill"):
    return next(c for c in summary.comparisons if (c.name, c.phase) == (name, phase))


def test_every_site_has_one_record_a_phase(runs):
    oracle, sut = (run.trace() for run in runs)
    summary = compare_traces(oracle=oracle, sut=sut)
    assert len(summary.comparisons) == 2 * len(sut.run.declared)
    assert [c.name for c in summary.comparisons[:4]] == ["embed.out", "embed.out", "L00.attn.norm", "L00.attn.norm"]
    assert {c.phase for c in summary.comparisons} == {"prefill", "decode"}
    assert of(summary, "L00.attn.q").rows == TOKENS - 2
    assert of(summary, "L00.attn.q", "decode").rows == 2
    assert of(summary, "embed.out").verdict is Verdict.MATCH


def test_an_output_missing_on_one_side_is_a_record(runs):
    oracle, sut = runs
    summary = compare_traces(oracle=oracle.trace(), sut=without(sut, lambda c: c.name == "L01.moe.up"))
    assert of(summary, "L01.moe.up").verdict is Verdict.MISSING_IN_SUT
    assert summary.diverged
    summary = compare_traces(oracle=without(oracle, lambda c: c.name == "L01.moe.up"), sut=sut.trace())
    assert of(summary, "L01.moe.up").verdict is Verdict.MISSING_IN_ORACLE
    assert not summary.healthy


def test_a_phase_missing_in_one_stage_is_a_record(runs):
    oracle, sut = runs
    summary = compare_traces(
        oracle=oracle.trace(), sut=without(sut, lambda c: c.name == "L01.attn.q" and c.phase == "decode")
    )
    assert of(summary, "L01.attn.q", "decode").verdict is Verdict.MISSING_IN_SUT
    assert of(summary, "L01.attn.q").verdict is Verdict.NO_FLOOR


def test_a_phase_that_neither_side_captured_blames_nobody(runs, moe):
    """An oracle that prefilled the decoded positions has them; one whose rows end before has not."""
    _, sut = runs

    def drop(c) -> bool:
        return c.name == "L01.attn.q" and c.phase == "decode"

    decoded = moe.forward(1, "fp32", tokens=TOKENS, decode=2)
    summary = compare_traces(oracle=without(decoded, drop), sut=without(sut, drop))
    record = of(summary, "L01.attn.q", "decode")
    assert record.verdict is Verdict.NOT_COMPARED
    assert "captured by either side" in record.reason
    assert not summary.diverged
    assert not summary.healthy, "what nobody captured is no clean bill"
    assert of(summary, "L01.attn.q").verdict is Verdict.NO_FLOOR
    summary = compare_traces(oracle=decoded.trace(), sut=without(sut, drop))
    assert of(summary, "L01.attn.q", "decode").verdict is Verdict.MISSING_IN_SUT
    summary = compare_traces(oracle=without(decoded, drop), sut=sut.trace())
    assert of(summary, "L01.attn.q", "decode").verdict is Verdict.MISSING_IN_ORACLE


def test_declared_and_captured_by_nobody_is_a_failure(runs):
    oracle, sut = (without(run, lambda c: c.stage == "logits") for run in runs)
    record = of(compare_traces(oracle=oracle, sut=sut), "logits")
    assert record.verdict is Verdict.MISSING_IN_SUT
    assert "nor by the other side" in record.reason


def test_no_site_in_common_is_no_success(runs):
    oracle, sut = runs
    summary = compare_traces(
        oracle=without(oracle, lambda c: c.layer is not None), sut=without(sut, lambda c: c.layer is None), layers=(0,)
    )
    assert not summary.healthy
    assert set(summary.verdicts) == {"MISSING_IN_ORACLE"}
    nothing = compare_traces(oracle=oracle.trace(), sut=sut.trace(), stages=("gdn.*",))
    assert nothing.comparisons == ()
    assert not nothing.healthy


def test_a_filter_restricts_what_is_declared(runs):
    oracle, sut = (run.trace() for run in runs)
    summary = compare_traces(oracle=oracle, sut=sut, layers=(2,), stages=("moe.gate", "moe.up"))
    assert set(summary.declared) == {"L02.moe.gate", "L02.moe.up"}


def test_no_position_in_common_and_a_part_of_them(runs, moe):
    oracle, sut = runs

    def only(run, keep):
        trace = run.trace()
        captures, tensors = [], {}
        for c in trace.captures:
            mask = keep(c.rows.position)
            tensors[c.number] = run.tensors[c.number][torch.from_numpy(mask)]
            captures.append(replace(c, rows=c.rows.take(mask), shape=tuple(tensors[c.number].shape), geometry={}))
        return MemoryTrace(trace.run, tuple(captures), tensors)

    summary = compare_traces(
        oracle=only(oracle, lambda p: p < 10), sut=only(sut, lambda p: p >= 10), stages=("attn.q",)
    )
    assert {c.verdict for c in summary.comparisons} == {Verdict.NOT_COMPARED}
    summary = compare_traces(
        oracle=only(oracle, lambda p: p < 30), sut=only(sut, lambda p: p >= 10), stages=("attn.q",)
    )
    record = of(summary, "L00.attn.q")
    assert record.rows == 20
    assert record.whole["rows_unpaired"] == 20
    assert of(summary, "L00.attn.q", "decode").verdict is Verdict.MISSING_IN_ORACLE


def test_other_ids_are_refused_with_the_first_difference(runs, moe):
    other = moe.forward(2, "engine", tokens=TOKENS)
    with pytest.raises(TraceError, match="same names"):
        compare_traces(oracle=runs[0].trace(), sut=other.trace())
    other.name = "prompt-1"
    with pytest.raises(TraceError, match="first difference at position"):
        compare_traces(oracle=runs[0].trace(), sut=other.trace())


def test_a_floor_of_another_recipe_or_checkpoint_is_refused(runs, floor):
    oracle, sut = (run.trace() for run in runs)
    with pytest.raises(UsageError, match="noise floor"):
        compare_traces(oracle=oracle, sut=oracle, floor=floor)
    with pytest.raises(UsageError, match="lineage elsewhere"):
        compare_traces(oracle=oracle, sut=sut, floor=replace(floor, lineage=replace(floor.lineage, root="elsewhere")))


def test_expert_rows_meet_by_expert_when_the_slots_are_swapped(runs):
    """The SUT lists the same two experts in the other order, in ids, weights and expert rows."""
    oracle, _ = runs
    trace = oracle.trace()
    captures, tensors = [], dict(oracle.tensors)
    for c in trace.captures:
        if c.stage in ("moe.topk_ids", "moe.topk_weights"):
            tensors[c.number] = oracle.tensors[c.number].flip(1)
        if c.rows.slot is not None:
            c = replace(c, rows=replace(c.rows, slot=1 - c.rows.slot))
        captures.append(c)
    summary = compare_traces(oracle=trace, sut=MemoryTrace(trace.run, tuple(captures), tensors))
    ids = [c for c in summary.comparisons if c.stage == "moe.topk_ids"]
    assert {c.verdict for c in ids} == {Verdict.WITHIN_FLOOR}
    assert {c.reason for c in ids} == {"the same experts, slots in another order"}
    assert {c.verdict for c in summary.comparisons if c.stage != "moe.topk_ids"} == {Verdict.MATCH}


def test_a_flip_is_set_apart_and_its_pair_excluded(runs, moe, floor):
    """One token's second expert is exchanged for its third, as a near-tie would: with a floor, by its margin."""
    chosen = {}

    def third_best(stage, layer, value, geometry):
        if (stage, layer) == ("moe.router_logits", 1):
            ranked = value.sort(descending=True).values
            chosen["token"] = int((ranked[:, 1] - ranked[:, 2]).argmin())
            order = value[chosen["token"]].argsort(descending=True)
            value = value.clone()
            value[chosen["token"], order[[1, 2]]] = value[chosen["token"], order[[2, 1]]]
        return value

    sut = moe.forward(1, "fp32", third_best, tokens=TOKENS)
    sut.recipe = "engine"  # so that the floor's recipe fits
    summary = compare_traces(oracle=runs[0].trace(), sut=sut.trace(), floor=floor)
    ids = of(summary, "L01.moe.topk_ids")
    assert ids.whole["flips"] == ids.whole["flips_excused"] == 1
    assert ids.worst[0].index == chosen["token"]
    gate = of(summary, "L01.moe.gate")
    assert gate.excluded_rows == 1
    assert gate.verdict.healthy  # not MATCH: the experts' row counts changed, and with them the order of BLAS's sums
    mixed = of(summary, "L01.moe.experts")
    assert mixed.excluded_rows == 0
    assert mixed.whole["rows_aside"] == 1
    flipped = next(s for s in mixed.worst if s.kind == "flipped_row")
    assert f"position {chosen['token']} " in flipped.where
    assert of(summary, "L02.attn.q").whole["rows_aside"] == 1
    assert of(summary, "L01.attn.q").whole["rows_aside"] == 0


def test_another_top_k_is_a_shape_mismatch(runs):
    oracle, sut = runs
    trace = sut.trace()
    captures, tensors = [], dict(sut.tensors)
    for c in trace.captures:
        if c.stage == "moe.topk_ids":
            tensors[c.number] = sut.tensors[c.number][:, :1]
            c = replace(c, shape=(c.shape[0], 1))
        if c.stage == "moe.gate":
            mask = c.rows.slot == 0
            tensors[c.number] = sut.tensors[c.number][torch.from_numpy(mask)]
            c = replace(c, rows=c.rows.take(mask), shape=tuple(tensors[c.number].shape), geometry={})
        captures.append(c)
    summary = compare_traces(oracle=oracle.trace(), sut=MemoryTrace(trace.run, tuple(captures), tensors))
    assert of(summary, "L00.moe.topk_ids").verdict is Verdict.SHAPE_MISMATCH
    assert of(summary, "L00.moe.gate").verdict is Verdict.SHAPE_MISMATCH


def test_a_clean_run_with_a_hole_is_refused_as_a_sample(runs):
    oracle, sut = runs
    with pytest.raises(UsageError, match=r"L01\.moe\.up"):
        sample_traces(oracle=oracle.trace(), clean=without(sut, lambda c: c.name == "L01.moe.up"), run="x")
    sample = sample_traces(oracle=oracle.trace(), clean=sut.trace(), run="x")
    assert np.isfinite(list(sample.worst.values())).all()
    assert {key.mode for key in sample.worst} == {"chained"}


def test_two_requests_pool_and_name_theirs(moe):
    """Two prompts in one trace; a lost row is named with its request."""

    def both(recipe, wrap=None):
        parts = [moe.forward(seed, recipe, w, tokens=TOKENS) for seed, w in ((1, None), (2, wrap))]
        first, second = (p.trace() for p in parts)
        captures, tensors = list(first.captures), dict(parts[0].tensors)
        for c in second.captures:
            number = len(captures)
            rows = replace(c.rows, request=c.rows.request + 1)
            captures.append(replace(c, number=number, rows=rows))
            tensors[number] = parts[1].tensors[c.number]
        run = replace(
            first.run,
            request_names=first.run.request_names + second.run.request_names,
            requests=first.run.requests + second.run.requests,
        )
        return MemoryTrace(run, tuple(captures), tensors)

    def lose(stage, layer, value, geometry):
        if (stage, layer) == ("attn.out", 1):
            value = value.clone()
            value[7] = 0
        return value

    summary = compare_traces(oracle=both("fp32"), sut=both("engine", lose))
    record = of(summary, "L01.attn.out")
    assert record.rows == 2 * TOKENS
    row = next(s for s in record.worst if s.kind == "row")
    assert row.where == "request 'prompt-2', position 7"


@pytest.mark.parametrize("rows", [3, 17])
def test_blocks_of_positions_are_judged_as_the_whole(moe, floor, monkeypatch, rows):
    """Ids, weights and values of two phases, with flips; and what one side lacks."""
    oracle, sut = moe.forward(1, "fp32", tokens=80), moe.forward(1, "fp8", tokens=80, decode=3)
    whole = compare_traces(oracle=oracle.trace(), sut=sut.trace(), floor=floor)
    assert sum(c.whole["flips"] for c in whole.comparisons if c.stage == "moe.topk_ids") > 3
    monkeypatch.setattr(ranges, "BLOCK_ROWS", rows)
    parts = compare_traces(oracle=oracle.trace(), sut=sut.trace(), floor=floor)
    for a, b in zip(whole.comparisons, parts.comparisons, strict=True):
        for what in ("name", "phase", "verdict", "rows", "excluded_rows", "unjudged"):
            assert getattr(a, what) == getattr(b, what)
        assert a.over_floor == pytest.approx(b.over_floor, rel=1e-9)
        # Equal tokens have equal rows in a model without attention: which of them is named is open.
        for one, other in zip(a.worst, b.worst, strict=True):
            assert (one.kind, one.by) == (other.kind, other.by)
            assert (one.over_floor or 0.0) == pytest.approx(other.over_floor or 0.0, rel=1e-9)
        assert a.whole == pytest.approx(b.whole, rel=1e-6, nan_ok=True)


def test_a_row_too_wide_for_a_trace_is_refused_with_the_limit(moe, runs, monkeypatch):
    monkeypatch.setattr(traces, "WIDEST_ROW", 255)
    oracle, sut = (run.trace() for run in runs)
    record = of(compare_traces(oracle=oracle, sut=sut, stages=("attn.norm",)), "L00.attn.norm")
    assert record.verdict is Verdict.NOT_COMPARED
    assert "a row of 256 elements; of a trace at most 255" in record.reason
    assert of(compare_traces(oracle=oracle, sut=sut, stages=("moe.gate",)), "L00.moe.gate").verdict is Verdict.NO_FLOOR


def test_what_an_engine_says_it_cannot_show_is_told_and_not_missing(runs, moe, floor):
    """It is judged with the stage that reads it; what it does not say stays missing, and so does what it declares."""
    oracle, sut = moe.forward(1, "fp32").trace(), moe.forward(1, "engine")
    hidden = {"moe.gate": "inside the fused kernel", "moe.up": "inside the fused kernel"}
    less = without(sut, lambda c: c.stage in hidden)
    shown = tuple(site for site in less.run.declared if site[1] not in hidden)
    told = replace(less.run, declared=shown, flags={"unobservable": hidden})
    summary = compare_traces(oracle=oracle, sut=MemoryTrace(told, less.captures, sut.tensors), floor=floor)
    assert summary.healthy
    assert summary.unobservable == hidden
    assert not {c.stage for c in summary.comparisons} & set(hidden)
    other = compare_traces(oracle=MemoryTrace(told, less.captures, sut.tensors), sut=sut.trace(), floor=floor)
    assert other.unobservable == hidden
    for run in (replace(told, flags={}), replace(told, declared=less.run.declared)):
        missing = compare_traces(oracle=oracle, sut=MemoryTrace(run, less.captures, sut.tensors), floor=floor)
        assert {c.stage for c in missing.comparisons if c.verdict is Verdict.MISSING_IN_SUT} == set(hidden)
        assert missing.diverged


@pytest.mark.parametrize(("field", "value"), [("model", "draft"), ("basis", "interleaved")])
def test_captures_of_another_model_or_basis_are_not_compared(runs, field, value):
    oracle, _ = runs
    trace = oracle.trace()
    base = [replace(c, basis="half") for c in trace.captures]
    other = [replace(c, **{field: value}) if c.name == "L01.attn.q" else c for c in base]
    left, right = (MemoryTrace(trace.run, tuple(side), oracle.tensors) for side in (base, other))
    for a, b in ((left, right), (right, left)):
        summary = compare_traces(oracle=a, sut=b)
        record = of(summary, "L01.attn.q")
        assert record.verdict is Verdict.NOT_COMPARED
        assert f"{field} of L01.attn.q: expected" in record.reason
        assert not summary.healthy
    assert compare_traces(oracle=right, sut=right).healthy


def test_the_reason_for_another_family_or_checkpoint_is_told(runs):
    oracle, _ = runs
    other = changed(oracle, family="torch", lineage=Lineage("sha256:other"))
    summary = compare_traces(oracle=oracle.trace(), sut=other, same_model_because="exported by hand")
    assert any("families differ" in note for note in summary.notes)
    assert any("exported by hand" in note for note in summary.notes)
    assert compare_traces(oracle=oracle.trace(), sut=oracle.trace()).notes == ()
