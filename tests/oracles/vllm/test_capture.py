"""Are a packing engine's tensors filed under the right token, as they were when they were made?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from parity.align import align
from parity.compare import compare_traces
from parity.errors import ProbeError, RunnerError
from parity.floor import derive_floor
from parity.runner import CapturePlan, Graft, Request, Schedule
from parity_oracles.vllm import tap

A, B, C = (7, 3, 11, 2, 5, 9, 1, 4, 8), (7, 3, 12, 6, 1), (7,)
TOGETHER = [Request("a", A), Request("b", B), Request("c", C)]
PLAN = CapturePlan()
# Batches of other sizes sum in another order; 64 roundings are far more than a model of two layers makes.
SAME = derive_floor("derived:float32:64")


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(("chunk", "decode"), [(None, 0), (2, 0), (4, 3), (1, 1)])
def test_packed_chunked_and_decoded_rows_are_those_of_the_request_alone(toy, padding: int, chunk: Any, decode: int):
    requests = [r for r in TOGETHER if len(r.ids) > decode]
    runner = toy(padding=padding)
    trace = runner.forward(requests, schedule=Schedule(chunk=chunk, decode=decode), capture=PLAN)
    for number, request in enumerate(requests):
        alone = runner.forward([request], capture=PLAN)
        for layer, stage in trace.run.declared:
            packed, single = align(trace, stage, layer, number), align(alone, stage, layer, 0)
            assert packed is not None, (layer, stage)
            assert single is not None, (layer, stage)
            assert packed.position.tolist() == list(range(len(request.ids)))
            assert torch.allclose(packed.tensor.float(), single.tensor.float(), atol=1e-5), (layer, stage)
            steps = [c.step for c in packed.captures if c.phase == "decode"]
            assert steps == list(range(1, decode + 1))


def test_the_stages_are_what_their_names_say(toy):
    runner = toy()
    trace = runner.forward([Request("a", A)], capture=PLAN)

    def at(stage: str, layer: int | None = 0) -> torch.Tensor:
        return trace.tensor(trace.select(stage=stage, layer=layer)[0])

    model = runner.engine.model.model
    layer = model.layers[0]
    position = torch.arange(len(A)).float()
    # q was normed and turned in place after it was seen.
    q, k, _v = layer.self_attn.qkv_proj(at("attn.norm"))[0].split([12, 4, 4], dim=-1)
    assert torch.equal(at("attn.q").flatten(1), q)
    assert torch.allclose(at("attn.k_rope").flatten(1), layer.self_attn.k_norm(k) * torch.cos(position)[:, None])
    assert torch.allclose(at("resid.mid"), at("embed.out", None) + at("attn.out"))
    assert torch.allclose(at("resid.out"), at("resid.mid") + at("moe.experts"))
    down = trace.select(stage="moe.down", layer=0)[0]
    assert down.variant == "apart"
    rows, weights = trace.tensor(down), at("moe.topk_weights")
    ids = at("moe.topk_ids")
    assert down.rows.expert is not None
    assert np.array_equal(down.rows.expert, ids.flatten().numpy())
    alone = torch.einsum("td,tsed->tse", at("mlp.norm"), layer.mlp.experts.routed_experts.w2_weight[ids.long()])
    assert torch.allclose(rows, alone.flatten(0, 1), atol=1e-5)
    assert torch.allclose((rows.unflatten(0, (-1, 2)) * weights[..., None]).sum(1), at("moe.experts"), atol=1e-5)
    assert torch.allclose(at("logits", None), runner.engine.model.lm_head(at("final_norm", None)), atol=1e-5)


def test_without_copies_the_rotated_query_would_stand_for_the_projected(toy, monkeypatch: pytest.MonkeyPatch):
    """The check above can fail: the toy overwrites as vLLM does."""
    plan = CapturePlan(stages=("attn.q", "attn.norm"))
    copied = toy().forward([Request("a", A)], capture=plan)
    monkeypatch.setattr(tap, "_copied", lambda tensor: tensor)
    kept = toy().forward([Request("a", A)], capture=plan)
    first, second = (t.tensor(t.select(stage="attn.q", layer=0)[0]) for t in (copied, kept))
    assert not torch.equal(first, second)


def test_capture_does_not_change_what_is_computed(toy):
    runner = toy()
    before = runner.generate(Request("a", A), max_new_tokens=4)
    seen = runner.forward([Request("a", A)], capture=PLAN)
    alone = runner.forward([Request("a", A)], capture=CapturePlan(stages=("logits",)))
    assert runner.generate(Request("a", A), max_new_tokens=4) == before
    logits = [t.tensor(t.select(stage="logits")[0]) for t in (seen, alone)]
    assert torch.equal(*logits)
    assert "compute_logits" not in vars(runner.engine.model)


def test_rows_of_a_cached_prefix_are_absent_and_not_wrong(toy):
    runner = toy()
    whole = runner.forward([Request("a", A)], capture=PLAN)
    cached = runner.forward([Request("a", A, cached=4)], capture=PLAN)
    rows = cached.select(stage="attn.q", layer=0)[0].rows.position
    assert rows.tolist() == [4, 5, 6, 7, 8]
    assert cached.run.flags["absent"] == {"a": {"*": 4, "logits": 8}}
    summary = compare_traces(oracle=whole, sut=cached, floor=SAME)
    assert summary.healthy
    assert {c.whole.get("positions_absent") for c in summary.comparisons if c.stage == "attn.q"} == {4.0}
    # The same rows, lost without a word, are no clean bill.
    del cached.run.flags["absent"]
    assert not compare_traces(oracle=whole, sut=cached, floor=SAME).healthy


@pytest.mark.parametrize("told", [{"a": {"*": -4}}, {"a": {"*": 4.0}}, {"a": {"*": True}}, {"a": 4}, [4], "4"])
def test_a_claim_of_absence_that_is_none_is_not_believed(toy, told: Any):
    runner = toy()
    whole = runner.forward([Request("a", A)], capture=PLAN)
    cached = runner.forward([Request("a", A, cached=4)], capture=PLAN)
    cached.run.flags["absent"] = told
    assert not compare_traces(oracle=whole, sut=cached, floor=SAME).healthy


def test_a_prefix_that_is_no_whole_block_is_refused(toy):
    with pytest.raises(RunnerError, match="the first 5 ids of request a from the prefix cache; found 4"):
        toy().forward([Request("a", A, cached=5)], capture=PLAN)


def test_a_batch_that_is_misreported_is_not_filed(toy):
    with pytest.raises(ProbeError, match="ids of request"):
        toy(swapped=True).forward([Request("a", A), Request("b", (2, *B))], capture=PLAN)


def test_a_request_that_was_pushed_out_is_not_filed_twice(toy):
    with pytest.raises(ProbeError, match="pushed out of the KV cache"):
        toy(pushed_out=True).forward([Request("a", A)], schedule=Schedule(decode=2), capture=PLAN)


def test_a_stage_that_stays_silent_fails_the_run(toy):
    runner = toy()
    layer = runner.engine.model.model.layers[1]
    layer.self_attn.forward = lambda positions, x: x + positions[:, None]
    with pytest.raises(ProbeError, match=r"attn\.q"):
        runner.forward([Request("a", A)], capture=PLAN)


def test_a_module_that_runs_twice_is_named(toy):
    runner = toy()
    mlp = runner.engine.model.model.layers[1].mlp
    own = mlp.forward
    mlp.forward = lambda x: own(x) + own(x)
    with pytest.raises(ProbeError, match=r"twice: .*moe\.router_logits of layer 1"):
        runner.forward([Request("a", A)], capture=PLAN)


def test_a_router_inside_a_monolithic_kernel_is_said_to_be_missing(toy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(toy().engine.model.model.layers[0].mlp.experts), "is_monolithic", True)
    with pytest.raises(ProbeError, match="router"):
        toy()


@pytest.mark.parametrize("index", [0, 4])
def test_an_expert_scaled_in_the_engine_is_found_at_its_rows_and_nowhere_before(toy, index: int):
    healthy, faulty = toy(), toy()
    faulty.scale_parameter("model.layers.1.mlp.experts.routed_experts.w2_weight", index, 1.05)
    requests = [Request("a", tuple(range(1, 23))), Request("b", B)]
    traces = [runner.forward(requests, capture=PLAN) for runner in (healthy, faulty)]
    summary = compare_traces(oracle=traces[0], sut=traces[1], floor=SAME)
    first = next(c for c in summary.comparisons if c.verdict.faulty)
    assert first.name == "L01.moe.down"
    worst = next(s for s in first.worst if s.kind == "expert")
    assert worst.index == index
    assert worst.metrics["slope"] == pytest.approx(1.05, abs=1e-3)


def test_a_parameter_that_is_not_there_is_refused(toy):
    with pytest.raises(RunnerError, match="w2_weight"):
        toy().scale_parameter("layers.1.w2_weight", 0, 1.05)


def test_what_it_cannot_do_is_refused(toy):
    runner = toy()
    with pytest.raises(RunnerError, match="a graft"):
        toy(eager=False).forward([Request("a", A)], graft=[Graft(0, "attn.q", torch.zeros(1), None)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunnerError, match="beside"):
        runner.forward([Request("a", A, cached=4)], graft=[Graft(0, "attn.q", torch.zeros(1), None)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunnerError, match="slots"):
        runner.forward([Request("a", A)], schedule=Schedule(slots=(1,)))


def test_stages_of_a_compiled_model_are_said_to_be_out_of_sight(toy):
    runner = toy(eager=False)
    assert runner.describe().stages == ("logits",)
    trace = runner.forward([Request("a", A)], capture=PLAN)
    assert {c.stage for c in trace.captures} == {"logits"}
    assert runner.unobservable["attn.q"].startswith("compiled")


def test_the_engine_is_ended_once_with_the_block_that_opened_it(toy):
    runner, ended = toy(), []
    runner.engine.close = lambda: ended.append(1)
    with runner as same:
        assert same is runner
        assert not ended
    runner.close()
    assert ended == [1]
