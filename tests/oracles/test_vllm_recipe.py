"""The emulation of vLLM in BF16: where it rounds, what it carries unrounded, and one kernel judged as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import ConfigError
from parity.floor import Floor
from parity.ladder.calibrate import Opening, calibrate_apart
from parity.ladder.replay import Replay
from parity.promptfile import read_prompt
from parity.records import Verdict
from parity.runner import CapturePlan, Graft, Request
from parity.trace import MemoryTrace, Trace
from parity_oracles.recipes.runner import RecipeRunner, open_runner
from parity_oracles.recipes.vllm import INSIDE

ROOT = Path(__file__).resolve().parents[2] / "fixtures"
REQUEST = Request("a", tuple(number * 7 % 211 for number in range(40)))
Stages = dict[tuple[int | None, str], torch.Tensor]


@pytest.fixture(scope="module")
def folder(make_model: Callable[..., Path]) -> str:
    return str(make_model(hidden_size=96, moe_intermediate_size=160))


@pytest.fixture(scope="module")
def runner(folder: str) -> RecipeRunner:
    return open_runner(folder, recipe="bf16_vllm")


@pytest.fixture(scope="module")
def trace(runner: RecipeRunner) -> Trace:
    return runner.forward([REQUEST], capture=CapturePlan())


@pytest.fixture(scope="module")
def seen(trace: Trace, stages_of: Callable[..., Stages]) -> Stages:
    return stages_of(trace)


def calibrated(folder: str, recipe: str, runs: int, **more: str) -> Floor:
    """In a process of its own: engines may be loaded in this one."""
    return calibrate_apart(
        emulations=[Opening(f"recipe:{folder}", {"recipe": recipe, "order": order, **more}) for order in (0, 1, 8)],
        oracle=Opening(f"recipe:{folder}", {"recipe": "fp32"}),
        requests=[Request(f"d{n}", tuple((n * 31 + k * 7) % 211 for k in range(40))) for n in range(runs)],
    )


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def test_a_norm_takes_the_sum_before_it_is_rounded(runner: RecipeRunner, seen: Stages) -> None:
    """Written out apart from the recipe's functions: `fused_add_rms_norm` of vLLM's native operations."""
    total = seen[0, "resid.out"].float() + seen[1, "attn.out"].float()
    normed = rounded(total * torch.rsqrt((total * total).mean(-1, keepdim=True) + runner.hyper.rms_eps))
    expected = (normed * runner.weights.norm(1, "post_attention_layernorm").float()).bfloat16()
    assert torch.equal(seen[1, "mlp.norm"], expected)
    assert torch.equal(seen[1, "resid.mid"], total.bfloat16())
    alone = runner.replay(
        "mlp.norm", 1, {"resid.mid": seen[1, "resid.mid"]}, positions=torch.arange(40), recipe="bf16_vllm"
    )
    assert not torch.equal(alone, expected)


def test_router_logits_weights_and_logits_are_rounded(seen: Stages) -> None:
    for site in ((0, "moe.router_logits"), (0, "moe.topk_weights"), (None, "logits"), (1, "moe.experts")):
        assert seen[site].dtype == torch.bfloat16, site


def test_what_is_inside_the_kernel_is_not_shown(runner: RecipeRunner, trace: Trace) -> None:
    assert not INSIDE & set(runner.describe().stages)
    assert not any(stage in INSIDE for _, stage in trace.run.declared)
    assert trace.run.unobservable == INSIDE
    assert trace.complete


def test_the_kernel_is_replayed_as_one(folder: str, trace: Trace, runner: RecipeRunner) -> None:
    """From what it reads; its emulation gives its bits, exact arithmetic stands a rounding of silu's product away."""
    site = Replay(trace, open_runner(folder, recipe="fp32")).site(1, "moe.down")
    assert [node.name for node in site.hidden] == ["moe.gate", "moe.up", "moe.act"]
    assert set(site.inputs) == {"mlp.norm", "moe.topk_ids"}
    assert site.sut is not None
    assert site.oracle is not None
    assert torch.equal(site.recompute(runner, recipe="bf16_vllm"), site.sut.tensor)
    error = float((site.sut.tensor.float() - site.oracle).norm() / site.oracle.norm())
    # Weights are BF16 as they are; two roundings of 2^-9 at most each, half that in the mean.
    assert 1e-4 < error < 2 * 2**-9


def test_orders_that_go_step_by_step_round_inside_too(folder: str, runner: RecipeRunner, seen: Stages) -> None:
    inputs = {name: seen[0, name] for name in ("mlp.norm", "moe.topk_ids")}
    step = open_runner(folder, recipe="bf16_vllm", order=8)
    wide, narrow = (
        one.replay("moe.gate", 0, inputs, positions=torch.arange(40), recipe="bf16_vllm") for one in (runner, step)
    )
    assert wide.dtype == torch.float32
    assert not torch.equal(wide, rounded(wide))
    assert narrow.dtype == torch.bfloat16


def test_what_is_put_in_the_place_of_a_sum_is_what_the_norm_takes(
    runner: RecipeRunner, trace: Trace, stages_of: Callable[..., Stages]
) -> None:
    capture = trace.select(stage="resid.mid", layer=1)[0]
    graft = Graft(1, "resid.mid", trace.tensor(capture) * 2, capture.rows)
    seen = stages_of(runner.forward([REQUEST], capture=CapturePlan(), graft=[graft]))
    alone = runner.replay(
        "mlp.norm", 1, {"resid.mid": seen[1, "resid.mid"]}, positions=torch.arange(40), recipe="bf16_vllm"
    )
    assert torch.equal(seen[1, "mlp.norm"], alone)


def test_one_expert_scaled_is_seen_in_a_kernel_that_hides_its_stages(folder: str, trace: Trace) -> None:
    oracle, floor = open_runner(folder, recipe="fp32"), calibrated(folder, "bf16_vllm", 6)
    assert not {key.stage for key in floor.scales if key.stage in INSIDE}
    healthy = Replay(trace, oracle).compare(floor=floor)
    assert not [c.name for c in healthy.comparisons if c.verdict is Verdict.EXCEEDS_FLOOR]
    assert not {c.stage for c in healthy.comparisons} & INSIDE
    assert set(healthy.unobservable) == INSIDE
    capture = trace.select(stage="moe.down", layer=1)[0]
    assert capture.rows.expert is not None
    scaled = trace.tensor(capture).clone()
    scaled[torch.from_numpy(capture.rows.expert == 2)] *= 1.05
    tensors: dict[int, Any] = {c.number: trace.tensor(c) for c in trace.captures} | {capture.number: scaled}
    faulty = Replay(MemoryTrace(trace.run, trace.captures, tensors), oracle)
    (record,) = faulty.judge(faulty.site(1, "moe.down"), floor=floor)
    assert record.verdict is Verdict.EXCEEDS_FLOOR
    assert {one.index for one in record.worst if one.kind == "expert" and (one.over_floor or 0) > 1} == {2}


def test_a_floor_that_knows_the_stages_apart_does_not_judge_the_kernel(folder: str, trace: Trace) -> None:
    replay, floor = Replay(trace, open_runner(folder, recipe="fp32")), calibrated(folder, "bf16", 4)
    (record,) = replay.judge(replay.site(1, "moe.down"), floor=floor)
    assert record.verdict is Verdict.NOT_COMPARED
    assert "one kernel with moe.act, moe.gate, moe.up" in record.reason
    assert "--hide" in record.reason


def test_a_floor_of_any_recipe_can_have_stages_hidden(folder: str, trace: Trace) -> None:
    """What an FP32 engine with one kernel of experts is judged by: the same emulation, shown as little."""
    hide = ", ".join(sorted(INSIDE))
    runner = open_runner(folder, recipe="fp32", order=1, hide=hide)
    seen = runner.forward([REQUEST], capture=CapturePlan())
    assert (seen.run.unobservable, seen.complete) == (INSIDE, True)
    assert not INSIDE & {capture.stage for capture in seen.captures}
    floor = calibrated(folder, "fp32", 6, hide=hide)
    found = Replay(seen, open_runner(folder, recipe="fp32")).compare(floor=floor)
    assert found.healthy, found
    (down,) = (one for one in found.comparisons if one.name == "L01.moe.down")
    assert down.over_floor is not None or down.verdict is Verdict.MATCH
    with pytest.raises(ConfigError, match=r"moe\.gates"):
        open_runner(folder, hide="moe.gates")


def test_norms_of_the_kernels_for_gpus_round_once_and_take_the_rounded_residual(
    folder: str, stages_of: Callable[..., Stages]
) -> None:
    """Written out apart from the recipe's functions: in fp32 throughout, of the residual as it is kept."""
    runner = open_runner(folder, recipe="bf16_vllm_cuda")
    seen = stages_of(runner.forward([REQUEST], capture=CapturePlan()))

    def normed(x: torch.Tensor, weight: str, layer: int) -> torch.Tensor:
        x = x.float()
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True) + runner.hyper.rms_eps)
        return (x * scale * runner.weights.norm(layer, weight).float()).bfloat16()

    for number in (0, 1):
        assert torch.equal(
            seen[number, "mlp.norm"], normed(seen[number, "resid.mid"], "post_attention_layernorm", number)
        )
        assert torch.equal(seen[number, "attn.q_norm"], normed(seen[number, "attn.q"], "self_attn.q_norm", number))
    assert torch.equal(seen[1, "attn.norm"], normed(seen[0, "resid.out"], "input_layernorm", 1))
    assert runner.describe().recipe.name == "bf16_vllm_cuda"
    assert not INSIDE & set(runner.describe().stages)


@pytest.mark.parametrize(
    ("recipe", "order", "roundings"),
    [("bf16_vllm", 0, 2), ("bf16_vllm_cuda", 0, 1), ("bf16_vllm_cuda", 3, 1), ("bf16_vllm_cuda", 8, 1), ("bf16", 8, 2)],
)
def test_a_norm_is_as_many_roundings_from_exact_arithmetic_as_its_recipe_says(
    folder: str, recipe: str, order: int, roundings: int
) -> None:
    run = open_runner(folder, recipe=recipe, order=order).forward([REQUEST], capture=CapturePlan(layers=(0,)))
    site = Replay(run, open_runner(folder, recipe="fp32")).site(0, "attn.q_norm")
    assert site.sut is not None
    assert site.oracle is not None
    error = float((site.sut.tensor.float() - site.oracle).norm() / site.oracle.norm())
    # The step of BF16 is 2^-7 of the power of two below a number: over mantissas spread evenly an error of
    # 2^-7 / sqrt(12) against a root mean square of sqrt(7 / 3), 0.76 * 2^-9; measured on normal numbers, 0.85 * 2^-9.
    assert error == pytest.approx(0.85 * 2**-9 * roundings**0.5, rel=0.1)


@pytest.mark.parametrize(("recipe", "seen"), [("bf16_vllm", False), ("bf16_vllm_cuda", True)])
def test_a_norm_that_rounds_elsewhere_than_its_recipe_is_seen_by_distance(recipe: str, seen: bool) -> None:
    """The CPU's recipe rounds before the gain in every order: by its floor kernels that do not are not it, and nothing
    else of theirs is over."""
    model = ROOT / "models/moe-tiny"
    request = read_prompt(ROOT / "prompts/short-multiprocessing-spawn-128.json").request
    run = open_runner(str(model), recipe=recipe).forward([request], capture=CapturePlan(layers=(0,)))
    assert isinstance(run, MemoryTrace)
    stated = open_runner(str(model), recipe="bf16_vllm").describe().recipe
    named = MemoryTrace(replace(run.run, recipe=stated), run.captures, {c.number: run.tensor(c) for c in run.captures})
    replay, floor = Replay(named, open_runner(str(model), recipe="fp32")), Floor.load(ROOT / "floors/bf16_vllm.json")
    stages = ("attn.norm", "attn.q_norm", "attn.k_norm", "mlp.norm", "attn.out", "moe.experts")
    over = {
        stage
        for stage in stages
        for one in replay.judge(replay.site(0, stage), floor=floor)
        if one.verdict is Verdict.EXCEEDS_FLOOR
    }
    assert over <= {"attn.norm", "attn.q_norm", "attn.k_norm"}  # the first with no residual, the others by head
    assert ({"attn.q_norm", "attn.k_norm"} <= over) is seen
    assert seen or not over
