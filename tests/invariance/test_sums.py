"""The sum rules: silent on a healthy trace, and each of them broken by the defect it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.invariance import sum_rules
from parity.invariance.norms import unit_rows
from parity.invariance.sums import RULES
from parity.runner import CapturePlan, Request
from parity.trace import MemoryTrace, Trace
from parity_kernels.forward.runner import TritonRunner

LAYER = 1


@pytest.fixture(scope="module")
def healthy(fp8_runner: TritonRunner) -> Trace:
    ids = torch.randint(0, 80, (33,), generator=torch.Generator().manual_seed(1)).tolist()
    requests = [Request("one", tuple(ids)), Request("two", tuple(ids[:9]))]
    return fp8_runner.forward(requests, capture=CapturePlan())


def edited(trace: Trace, stage: str, change: Callable[[torch.Tensor], object]) -> MemoryTrace:
    """A copy of `trace` whose tensor of `stage` in LAYER is changed in place."""
    tensors = {capture.number: trace.tensor(capture) for capture in trace.captures}
    for capture in trace.select(stage=stage, layer=LAYER):
        tensors[capture.number] = tensors[capture.number].clone()
        change(tensors[capture.number])
    return MemoryTrace(trace.run, trace.captures, tensors)


def test_a_healthy_trace_breaks_no_rule_and_all_are_tried(healthy: Trace):
    sums = sum_rules(healthy)
    assert sums.breaches == ()
    assert set(sums.checked) == set(RULES)
    assert all(sums.checked.values())


DEFECTS = {
    "weights": ("moe.topk_weights", lambda t: t[3].mul_(1.001), "routing weights sum to 1"),
    "negative": ("moe.topk_weights", lambda t: t[3].add_(torch.tensor([1.0, -1.0])), "routing weights sum to 1"),
    "nan": ("moe.topk_weights", lambda t: t[3].fill_(torch.nan), "routing weights sum to 1"),
    "twice": ("moe.topk_ids", lambda t: t[3].fill_(2), "chosen experts are distinct"),
    "outside": ("moe.topk_ids", lambda t: t[3, 0].fill_(5), "chosen experts are distinct"),
    "score": ("moe.router_logits", lambda t: t[3].neg_(), "top scores"),
    "position 0": ("attn.context", lambda t: t[0, 2].mul_(1.02), "position 0 attends to itself"),
    "add": ("resid.mid", lambda t: t[4].mul_(1.02), "resid.mid is the sum"),
    "last add": ("resid.out", lambda t: t[4, 7].add_(1.0), "resid.out is the sum"),
    "norm": ("mlp.norm", lambda t: t[5].mul_(1.05), "mlp.norm has unit rows"),
    "head norm": ("attn.k_norm", lambda t: t[5, 1].mul_(1.05), "attn.k_norm has unit rows"),
    "final": ("resid.out", lambda t: t.mul_(1.05), "resid.out is the sum"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_breaks_its_rule_at_its_stage(healthy: Trace, defect: str):
    stage, change, rule = DEFECTS[defect]
    sums = sum_rules(edited(healthy, stage, change))
    rules = [breach.rule for breach in sums.breaches]
    assert any(rule in one for one in rules), rules
    assert all(breach.site.layers in ((LAYER,), ()) for breach in sums.breaches)


def test_a_row_of_another_expert_and_wrong_offsets_are_seen(healthy: Trace):
    captures = list(healthy.captures)
    at = next(n for n, c in enumerate(captures) if (c.stage, c.layer) == ("moe.gate", LAYER))
    gate = captures[at]
    tensors = {capture.number: healthy.tensor(capture) for capture in captures}
    assert gate.rows.expert is not None
    expert = gate.rows.expert.copy()
    expert[0] = 4
    offsets = list(gate.geometry["expert_offsets"])
    shifted = [*offsets[:1], offsets[1] + 1, *offsets[2:]]
    for change in (
        replace(gate, rows=replace(gate.rows, expert=expert)),
        replace(gate, geometry={**gate.geometry, "expert_offsets": shifted}),
    ):
        captures[at] = change
        sums = sum_rules(MemoryTrace(healthy.run, tuple(captures), tensors))
        assert sums.breaches
        assert {b.site.layers for b in sums.breaches} == {(LAYER,)}


def test_a_norm_that_was_not_applied_is_seen_whatever_its_weight():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(20, 48, generator=random, dtype=torch.float64) * torch.logspace(-1, 1, 20)[:, None]
    weight = torch.randn(48, generator=random, dtype=torch.float64)
    normed = x * torch.rsqrt(x.square().mean(1, keepdim=True)) * weight
    assert (unit_rows(x.bfloat16(), normed.bfloat16(), eps=0.0) <= 1.5).all()  # x itself was rounded here
    assert (unit_rows(x, normed, eps=0.0) <= 1).all()
    assert (unit_rows(x, x * weight, eps=0.0) > 1).sum() >= 19
    assert np.isnan(unit_rows(x, normed * torch.nan, eps=0.0).numpy()).sum() in (0, 20)


def test_position_0_reads_its_value_back_from_the_cache_that_the_engine_names(healthy: Trace):
    """An engine that computes in fp32 over an f16 cache: its context is the value rounded once to f16, and no more."""
    tensors = {c.number: healthy.tensor(c) for c in healthy.captures}
    tensors = {n: t.float() if t.is_floating_point() else t.clone() for n, t in tensors.items()}
    captures = [replace(c, dtype="float32") if tensors[c.number].is_floating_point() else c for c in healthy.captures]
    value, context = (healthy.select(stage=f"attn.{name}", layer=LAYER)[0].number for name in ("v", "context"))
    tensors[value] += 1e-4 * torch.sin(torch.arange(tensors[value].numel())).view_as(tensors[value])
    firsts = [row for row, at in enumerate(captures[0].rows.position) if at == 0]  # of both requests
    group = tensors[context].shape[1] // tensors[value].shape[1]

    def broken(cache: str, read_back: torch.Tensor) -> bool:
        tensors[context][firsts] = read_back.repeat_interleave(group, 1)
        run = replace(healthy.run, recipe=replace(healthy.run.recipe, kv_cache=cache))
        breaches = sum_rules(MemoryTrace(run, tuple(captures), tensors)).breaches
        return any("position 0" in breach.rule for breach in breaches)

    own = tensors[value][firsts]
    assert not broken("f16", own.half().float())
    assert broken("fp32", own.half().float())
    assert broken("f16", own.half().float() * 1.002)
    assert not broken("fp32", own)


@pytest.mark.parametrize(("factor", "held"), [(1.0, True), (1.05, False)])
def test_routing_weights_may_be_rounded_to_a_narrower_dtype_than_holds_them(healthy: Trace, factor: float, held: bool):
    """vLLM rounds them to BF16 and goes on in FP32; what was not rounded is held to FP32's own bound."""
    draw = torch.Generator().manual_seed(4)
    (capture,) = [c for c in healthy.select(stage="moe.topk_weights", layer=LAYER) if 0 in c.rows.request][:1]
    exact = torch.rand(healthy.tensor(capture).shape, generator=draw).double() + 0.1
    exact /= exact.sum(1, keepdim=True)

    def broken(weights: torch.Tensor) -> bool:
        tensors = {c.number: healthy.tensor(c) for c in healthy.captures} | {capture.number: weights}
        captures = [replace(c, dtype="float32") if c is capture else c for c in healthy.captures]
        rules = [breach.rule for breach in sum_rules(MemoryTrace(healthy.run, tuple(captures), tensors)).breaches]
        return "routing weights sum to 1" in rules

    assert broken((exact * factor).bfloat16().float()) != held
    assert broken((exact * factor).float()) != held
    assert broken((exact * (1 + 1e-5)).float())
