"""The forward pass: probes and feeding change no bit, and the incident's launch loses the rows it must lose."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import ProbeError, UsageError
from parity.faults import Fault, where
from parity.fingerprint.causes import MISSING_RESIDUAL
from parity.probes import capture
from parity.records import Rows, Site
from parity.runner import CapturePlan, Graft, Request, Schedule
from parity.stages import QWEN3_MOE
from parity.trace import Trace
from parity_kernels.forward.runner import open_runner

Prompt = Callable[..., Request]
FOLDERS = ("fp8_model", "bf16_model")


def logits(trace: Trace) -> torch.Tensor:
    return torch.cat([trace.tensor(capture) for capture in trace.select(stage="logits")])


@pytest.mark.parametrize("folder", FOLDERS)
def test_probes_change_no_bit_and_all_fire(folder: str, prompt: Prompt, request: pytest.FixtureRequest):
    runner = open_runner(str(request.getfixturevalue(folder)))
    requests, schedule = [prompt(70), prompt(33, 1)], Schedule(chunk=32, decode=2)
    off = runner.logits(requests, schedule=schedule)
    trace = runner.forward(requests, schedule=schedule, capture=CapturePlan())
    assert torch.equal(logits(trace), off.cpu())
    assert {(c.layer, c.stage) for c in trace.captures} == {(at, s.name) for at, s in QWEN3_MOE.sites(2)}
    assert not off.isnan().any()


def test_the_environment_turns_probes_on_and_moves_no_token(
    fp8_model: Path, prompt: Prompt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner = open_runner(str(fp8_model))
    off = runner.generate(prompt(40), max_new_tokens=3)
    monkeypatch.setenv("PARITY_CAPTURE", str(tmp_path / "trace"))
    monkeypatch.setenv("PARITY_STAGES", "moe.*")
    assert runner.generate(prompt(40), max_new_tokens=3) == off
    assert (tmp_path / "trace" / "manifest.jsonl").is_file()


@pytest.mark.parametrize("folder", FOLDERS)
def test_chunks_batches_and_decode_give_the_same_bits(folder: str, prompt: Prompt, request: pytest.FixtureRequest):
    # Every op computes a row by itself, in an order that does not depend on what else is in the step.
    runner = open_runner(str(request.getfixturevalue(folder)))
    one = prompt(70)
    whole = runner.logits([one])
    assert torch.equal(runner.logits([one], schedule=Schedule(chunk=17)), whole)
    decoded = runner.logits([one], schedule=Schedule(decode=3))
    # Compiled prefill and decode attention sum over key tiles in different orders: they may differ by rounding there.
    close = torch.equal(decoded, whole) if runner.device.type == "cpu" else torch.allclose(decoded, whole, atol=0.05)
    assert close
    both = runner.forward([one, prompt(20, 1)], capture=CapturePlan(stages=("logits",)))
    here = both.select(stage="logits")[0]
    assert torch.equal(both.tensor(here)[torch.from_numpy(here.rows.request) == 0], whole.cpu())


def test_stale_buffers_of_an_earlier_request_change_no_bit(fp8_model: Path, prompt: Prompt):
    runner = open_runner(str(fp8_model))
    first = runner.logits([prompt(50)])
    runner.logits([prompt(70, 3)])
    assert torch.equal(runner.logits([prompt(50)]), first)
    for pattern in (0xFF, 0x5A):  # 0xFF is NaN in bf16, fp32 and e4m3 alike
        runner.engine.arena.fill(pattern)
        assert torch.equal(runner.logits([prompt(50)]), first)


def test_generation_is_the_argmax_of_teacher_forced_logits(bf16_model: Path, prompt: Prompt):
    runner = open_runner(str(bf16_model))
    start = prompt(30)
    made = runner.generate(start, max_new_tokens=4).ids
    forced = runner.logits([Request("forced", (*start.ids, *made))], schedule=Schedule(decode=4))
    assert tuple(forced[29:-1].argmax(-1).tolist()) == made


def test_the_incident_loses_exactly_the_rows_past_its_cap(fp8_model: Path, prompt: Prompt):
    # 160 tokens, top 2 of 5 experts: 64 rows on average, so the incident's grid covers ceil(128 / 64) tiles = 128 rows.
    requests = [prompt(160)]
    plan = CapturePlan(layers=(0,), stages=("moe.gate",))
    sound = open_runner(str(fp8_model)).forward(requests, capture=plan)
    broken = open_runner(str(fp8_model), fault="moe_tile_truncation").forward(requests, capture=plan)
    here, there = sound.captures[0], broken.captures[0]
    offsets = here.geometry["expert_offsets"]
    loads = [b - a for a, b in pairwise(offsets)]
    assert max(loads) > 128, "the fixture's router must overload an expert"
    number = torch.cat([torch.arange(load) for load in loads])
    lost = number >= 128
    assert torch.equal(sound.tensor(here)[~lost], broken.tensor(there)[~lost])
    assert (broken.tensor(there)[lost] == 0).all()
    assert (sound.tensor(here)[lost] != 0).any(1).all()
    assert there.launch["covers"]["rows_per_expert"] == 128


def test_a_graft_is_used_and_a_sham_graft_changes_no_bit(fp8_model: Path, prompt: Prompt):
    runner = open_runner(str(fp8_model))
    requests = [prompt(40)]
    trace = runner.forward(requests, capture=CapturePlan())
    plan = CapturePlan(stages=("logits",))
    text = runner.generate(requests[0], max_new_tokens=3)
    stages = ("attn.q", "attn.k_rope", "attn.context", "resid.mid", "moe.topk_ids", "moe.gate", "moe.act", "moe.down")
    for stage in (*stages, "resid.out"):
        own = trace.select(stage=stage, layer=0)[0]
        sham = Graft(0, stage, trace.tensor(own), own.rows)
        assert torch.equal(logits(runner.forward(requests, capture=plan, graft=[sham])), logits(trace)), stage
        assert runner.generate(requests[0], max_new_tokens=3, graft=[sham]) == text
        if stage == "moe.topk_ids":  # rolled ids give rows of other experts; the next test swaps them
            continue
        wrong = Graft(0, stage, torch.roll(trace.tensor(own), 1, 0), own.rows)
        assert not torch.equal(logits(runner.forward(requests, capture=plan, graft=[wrong])), logits(trace)), stage
    zero = Graft(None, "embed.out", torch.zeros(40, runner.config.hidden), Rows(own.rows.request, own.rows.position))
    assert runner.generate(requests[0], max_new_tokens=3, graft=[zero]).ids != text.ids


def without_residual(op: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that adds nothing, at one site where it is always called with both terms."""

    def add(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, **rest: Any) -> Any:
        if (where().layer, where().role) == (1, "mlp.norm"):
            residual = torch.zeros_like(residual)
        return op(x, residual, weight, **rest)

    return add


def test_a_graft_of_a_sum_calls_the_kernel_as_the_forward_pass_does(fp8_model: Path, prompt: Prompt):
    fault = Fault(
        "no_residual", "qwen3_moe", "Layer 1 adds no residual.", Site((1,), "resid.mid"), MISSING_RESIDUAL,
        op="add_rmsnorm", wrap=without_residual,
    )  # fmt: skip
    sound, broken = open_runner(str(fp8_model)), open_runner(str(fp8_model), fault=fault)
    requests, plan = [prompt(20)], CapturePlan(stages=("logits",))
    trace = sound.forward(requests, capture=CapturePlan())
    own = trace.select(stage="resid.mid", layer=1)[0]
    mended = broken.forward(requests, capture=plan, graft=[Graft(1, "resid.mid", trace.tensor(own), own.rows)])
    assert torch.equal(logits(mended), logits(trace))
    assert not torch.equal(logits(broken.forward(requests, capture=plan)), logits(trace))


def test_the_inside_of_a_fused_kernel_is_not_graftable(fp8_model: Path, prompt: Prompt):
    runner = open_runner(str(fp8_model))
    trace = runner.forward([prompt(9)], capture=CapturePlan())
    inner = runner.describe().inner
    assert inner == {"attn.q_norm", "attn.k_norm", "moe.router_logits"}
    for stage in sorted(inner):
        own = trace.select(stage=stage, layer=0)[0]
        with pytest.raises(ProbeError, match="fused"):
            runner.forward([prompt(9)], graft=[Graft(0, stage, trace.tensor(own), own.rows)])


def test_grafted_experts_take_their_weights_from_the_same_logits(bf16_model: Path, prompt: Prompt):
    runner = open_runner(str(bf16_model))
    trace = runner.forward([prompt(12)], capture=CapturePlan())
    own = trace.select(stage="moe.topk_ids", layer=0)[0]
    swapped = trace.tensor(own).flip(1).contiguous()
    rows = Rows(own.rows.request, own.rows.position)
    routed = runner.forward([prompt(12)], capture=CapturePlan(), graft=[Graft(0, "moe.topk_ids", swapped, rows)])
    weights = [t.tensor(t.select(stage="moe.topk_weights", layer=0)[0]) for t in (trace, routed)]
    # The same softmax by torch instead of our kernel: equal within a few fp32 roundings.
    torch.testing.assert_close(weights[1], weights[0].flip(1), rtol=1e-5, atol=0)


def test_requests_that_cannot_run_are_refused(fp8_model: Path):
    runner = open_runner(str(fp8_model))
    for ids, schedule in (
        ((), Schedule()),
        ((1, 80), Schedule()),
        ((1.0, 2), Schedule()),
        ((1, 2), Schedule(decode=2)),
        ((1,) * 513, Schedule()),
    ):
        with pytest.raises(UsageError, match="request x"):
            runner.logits([Request("x", ids)], schedule=schedule)  # type: ignore[arg-type]
    for schedule in (Schedule(decode=-1), Schedule(chunk=0)):
        with pytest.raises(UsageError, match="schedule"):
            runner.logits([Request("x", (1, 2))], schedule=schedule)
    with pytest.raises(UsageError, match="name of its own"):
        runner.logits([Request("x", (1, 2)), Request("x", (1, 3))])
    with pytest.raises(UsageError, match="new tokens"):
        runner.generate(Request("x", (1, 2)), max_new_tokens=-3)


def test_a_fault_of_another_engine_is_refused(fp8_model: Path):
    wrong = Fault("x", "qwen3_moe", "", truth=Site((), "moe.gate"), cause="", launch={"conv": max})
    with pytest.raises(UsageError, match="conv"):
        open_runner(str(fp8_model), fault=wrong)
    with pytest.raises(UsageError, match="no_such_fault"):
        open_runner(str(fp8_model), fault="no_such_fault")


def test_capture_sessions_reach_the_engine(bf16_model: Path, prompt: Prompt):
    runner = open_runner(str(bf16_model))
    with capture(layers=[1], stages=["moe.topk_*"], tokens="last") as session:
        runner.forward([prompt(20)], schedule=Schedule(chunk=8))
    (ids, _) = session.trace().captures
    assert ids.rows.position.tolist() == [19]
