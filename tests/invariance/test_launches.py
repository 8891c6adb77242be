"""Is a short grid of any kernel seen by its launch, and not of the grouped GEMM alone? Planted in the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.faults import Fault
from parity.invariance import Outcome, Subject, check_coverage
from parity.records import Site
from parity.runner import CapturePlan, Request, Schedule
from parity_kernels.forward.ops import LAUNCHES
from parity_kernels.forward.plant import plant
from parity_kernels.forward.runner import open_runner
from parity_kernels.launch import Launch

Prompt = Callable[[int], Request]

PLANTED = {
    "combine": ("moe.experts", "tokens"),
    "attention_prefill": ("attn.context", "rows"),
    "add_rmsnorm": ("attn.norm", "rows"),
    "qk_norm_rope": ("attn.q_norm", "q_rows"),
    "router": ("moe.router_logits", "tokens"),
    "permute": ("moe.gate", "permute.experts"),
    "quantize_rows": ("attn.q", "quantize_rows.rows"),
}
"""By op: the stage in whose capture its launch is seen, and the extent that its grid cuts short."""


def short(op: str, extent: str) -> Callable[..., Launch]:
    """The op's own launch that claims one tile or program less than there is; the kernel still gets its whole grid, so
    that nothing but the launch can tell."""
    sound = LAUNCHES[op]

    def launch(**extents: Any) -> Launch:
        made = sound(**extents)
        name = extent.rpartition(".")[2]
        return replace(made, covers={**made.covers, name: made.requires[name] - 1})

    return launch


def coverage_of(model: Path, request: Request, fault: Fault | None) -> Any:
    runner = open_runner(str(model))
    if fault is not None:
        plant(fault, runner.engine)
    return check_coverage(Subject(runner, request, brief=24, floor=None))


@pytest.mark.parametrize("op", PLANTED)
def test_a_short_grid_of_any_kernel_is_seen(fp8_model: Path, prompt: Prompt, op: str):
    stage, extent = PLANTED[op]
    fault = Fault(
        name=f"short_{op}", family="qwen3_moe", summary="A grid one short.", truth=Site((), stage), cause=None,
        launch={op: short(op, extent)},
    )  # fmt: skip
    found = coverage_of(fp8_model, prompt(40), fault)
    assert found.outcome is Outcome.BROKEN, found.sentence
    assert found.site is not None
    assert found.site.stage == stage
    assert found.numbers["extent"] == extent
    assert found.site.layers == (0, 1)


def test_every_launch_of_the_healthy_engine_reaches_its_work(fp8_model: Path, prompt: Prompt):
    found = coverage_of(fp8_model, prompt(40), None)
    assert found.outcome is Outcome.HELD, found.sentence
    assert found.evidence["launches"] > 60, "two layers of some fourteen kernels"


@pytest.mark.parametrize("schedule", [Schedule(chunk=7), Schedule(decode=3)])
def test_launches_are_told_in_every_phase_and_chunk(bf16_model: Path, prompt: Prompt, schedule: Schedule):
    """By the capture they made, in its own step: a cap of an earlier step is not told with a later one."""
    from parity.invariance import launch_coverage

    trace = open_runner(str(bf16_model)).forward([prompt(20)], schedule=schedule, capture=CapturePlan())
    launched = {(c.phase, c.step, c.chunk) for c in trace.captures if c.launch}
    assert launched == {(c.phase, c.step, c.chunk) for c in trace.captures}
    without = {c.stage for c in trace.captures if not c.launch}
    assert without <= {"resid.out"}, "which the next layer's norm makes"
    assert not [one.line() for one in launch_coverage(trace) if one.truncated]
    own = [c for c in trace.captures if c.stage == "moe.experts"]
    assert all(c.launch["requires"]["tokens"] == len(c.rows) for c in own)
