"""Are the formulas of the dry run those of the model's own shapes, and would a wrong one be seen?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.estimate import activation_bytes, count_operations, estimate_capture, plan_steps
from parity.preview import RunnerPreview, preview_runner
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.stages import term

MODEL = Path(__file__).parents[1] / "fixtures" / "models" / "moe-tiny"
SPEC = f"recipe:{MODEL}"
STEPS = list(plan_steps(29, Schedule(chunk=11, decode=4)))
Formula = Callable[[RunnerPreview, list[Any]], float]


@pytest.fixture(scope="module")
def preview() -> RunnerPreview:
    return preview_runner(SPEC)


def counted_operations(steps: list[Any]) -> float:
    """Every product of the model as its config and its checkpoint have it, one token after the other."""
    from safetensors import safe_open

    config = json.loads((MODEL / "config.json").read_text())
    weights: dict[str, list[int]] = {}
    for shard in sorted(MODEL.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            weights |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    chosen = config["num_experts_per_tok"] / config["num_experts"]
    a_token = 0.0
    for name, shape in weights.items():
        if len(shape) != 2 or "embed_tokens" in name:
            continue
        a_token += 2 * shape[0] * shape[1] * (chosen if ".experts." in name else 1)
    if "lm_head.weight" not in weights:  # tied: the embedding is the head
        a_token += 2 * config["vocab_size"] * config["hidden_size"]
    heads = config["num_attention_heads"] * config["head_dim"] * config["num_hidden_layers"]
    total = 0.0
    for step in steps:
        for position in range(step.start, step.stop):
            total += a_token + sum(2 * 2 * heads for _ in range(position + 1))  # scores, and the weighted sum
    return total


def without_the_output_projection(p: RunnerPreview, steps: list[Any]) -> float:
    a, tokens = p.axes, sum(s.stop - s.start for s in steps)
    return count_operations(p, steps) - 2.0 * tokens * p.layers * a["H"] * a["K"] * a["D"]


def with_two_matrices_an_expert(p: RunnerPreview, steps: list[Any]) -> float:
    a, tokens = p.axes, sum(s.stop - s.start for s in steps)
    return count_operations(p, steps) - 2.0 * tokens * p.layers * a["S"] * a["D"] * a["F"]


def with_every_expert(p: RunnerPreview, steps: list[Any]) -> float:
    return count_operations(replace(p, axes={**p.axes, "S": p.axes["E"]}), steps)


def with_chunks_that_see_only_themselves(p: RunnerPreview, steps: list[Any]) -> float:
    return count_operations(p, [replace(s, start=0, stop=s.stop - s.start) for s in steps])


def test_operations_are_those_of_the_checkpoints_own_weights(preview: RunnerPreview):
    assert count_operations(preview, STEPS) == counted_operations(STEPS)


@pytest.mark.parametrize(
    "wrong",
    [
        without_the_output_projection,
        with_two_matrices_an_expert,
        with_every_expert,
        with_chunks_that_see_only_themselves,
    ],
)
def test_a_wrong_count_of_operations_is_seen(preview: RunnerPreview, wrong: Formula):
    assert wrong(preview, STEPS) != counted_operations(STEPS)


@pytest.fixture(scope="module")
def held() -> int:
    """Bytes of one layer's tensors and of those outside the layers in the largest step, and of the keys and values."""
    ids = tuple(json.loads(next((MODEL.parents[1] / "prompts").rglob("*.json")).read_text())["ids"][:29])
    trace = open_runner(SPEC).forward([Request("p", ids)], schedule=Schedule(chunk=11, decode=4), capture=CapturePlan())
    first = [c for c in trace.captures if c.layer in (None, 0) and c.phase == "prefill" and c.chunk == 0]
    tensors = sum(trace.tensor(c).numel() * trace.tensor(c).element_size() for c in first)
    keys = [c for c in trace.captures if c.stage in ("attn.k_rope", "attn.v")]
    return tensors + sum(trace.tensor(c).numel() * trace.tensor(c).element_size() for c in keys)


def without_the_cache(p: RunnerPreview, steps: list[Any]) -> int:
    return activation_bytes(replace(p, layers=0), steps)


def with_one_row_an_expert_stage(p: RunnerPreview, steps: list[Any]) -> int:
    return activation_bytes(replace(p, axes={**p.axes, "S": 1}), steps)


def of_the_last_step(p: RunnerPreview, steps: list[Any]) -> int:
    return activation_bytes(p, steps[-1:])


def test_memory_is_that_of_the_tensors_of_a_run(preview: RunnerPreview, held: int):
    assert activation_bytes(preview, STEPS) == held


@pytest.mark.parametrize("wrong", [without_the_cache, with_one_row_an_expert_stage, of_the_last_step])
def test_a_wrong_amount_of_memory_is_seen(preview: RunnerPreview, held: int, wrong: Formula):
    assert wrong(preview, STEPS) != held


@pytest.mark.parametrize(("chunk", "decode", "steps"), [(None, 0, 1), (10, 0, 3), (10, 5, 8), (29, 1, 2)])
def test_time_is_operations_at_the_rate_and_what_each_layer_costs(
    preview: RunnerPreview, chunk: int | None, decode: int, steps: int
):
    """2e9 a second, and 3 ms a layer and step; doubling either part doubles its share and no other."""
    request = Request("p", tuple(range(29)))
    schedule, slow = Schedule(chunk=chunk, decode=decode), replace(preview, layer_seconds=0.003)
    said = estimate_capture(slow, request, schedule=schedule, plan=CapturePlan(), rate=2e9)
    assert said.steps == steps
    assert said.seconds == pytest.approx(said.operations / 2e9 + steps * preview.layers * 0.003, rel=1e-12)
    faster = estimate_capture(slow, request, schedule=schedule, plan=CapturePlan(), rate=4e9)
    assert said.seconds - faster.seconds == pytest.approx(said.operations / 4e9, rel=1e-9)
    assert said.memory_bytes == preview.weight_bytes + activation_bytes(preview, list(plan_steps(29, schedule)))


def test_the_rate_of_a_runner_that_knows_it_is_taken(preview: RunnerPreview):
    said = estimate_capture(
        replace(preview, flops=1.5e6), Request("p", tuple(range(29))), schedule=Schedule(), plan=CapturePlan()
    )
    assert said.rate == 1.5e6


def test_row_sizes_are_those_of_the_stages_own_tensors(preview: RunnerPreview):
    """What the formulas multiply: the sizes of axes and dtypes, stage by stage, as a run shows them."""
    trace = open_runner(SPEC).forward([Request("p", (1, 2, 3))], capture=CapturePlan(layers=(0,)))
    for capture in trace.captures:
        letters = term(capture.stage).axes[1:]
        assert tuple(capture.shape[1:]) == tuple(preview.axes[letter] for letter in letters)
        assert capture.dtype == preview.dtypes[capture.stage]
        assert trace.tensor(capture).dtype == getattr(torch, preview.dtypes[capture.stage])
