"""Where does each shipped fault first change a run? At the stage that its truth names, and at none before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.faults import Fault, named_fault, shipped_fault, shipped_faults, where
from parity.records import Site
from parity.runner import CapturePlan, Request, Schedule
from parity_kernels.forward.ops import LAUNCHES, ROLES
from parity_kernels.forward.runner import open_runner

from .conftest import ORDER, changed_sites, first_truth

Prompt = Callable[..., Request]
SHORT = (17, 9)
OVERLOADED = (160,)
"""The least prompt whose busiest expert passes the cap of 128 rows, see tests/forward/test_engine.py."""

TRUNCATED = {"moe_tile_truncation", "moe_stale_rows"}
SITED = sorted(name for name, fault in shipped_faults().items() if fault.truth is not None)
UNNORMALIZED = "moe_router_order_unnormalized"
INSTANCES = [name + "@1" for name in SITED if shipped_fault(name).instances is not None]


def requests_for(name: str, prompt: Prompt) -> tuple[Request, ...]:
    lengths = OVERLOADED if name.split("@")[0] in TRUNCATED else SHORT
    return tuple(prompt(length, seed) for seed, length in enumerate(lengths))


@pytest.mark.parametrize("name", [name for name in (*SITED, *INSTANCES) if name != UNNORMALIZED])
def test_the_first_changed_stage_is_the_truth(name: str, fp8_model: Path, healthy: Callable[..., Any], prompt: Prompt):
    runner = open_runner(str(fp8_model), fault=name)
    fault = named_fault(name, hyper=runner.config.hyper())
    requests = requests_for(name, prompt)
    faulty = runner.forward(requests, capture=CapturePlan())
    changed = changed_sites(healthy(requests), faulty)
    assert changed, "the fault changes nothing"
    assert changed[0] == first_truth(fault)
    # The investigator is blind: neither the runner nor its trace says what was planted.
    said = repr((faulty.run, faulty.captures, runner.describe()))
    assert fault.name not in said
    assert fault.summary not in said
    assert "fault" not in said.replace("default", "")


def test_softmax_over_the_chosen_alone_is_a_fault_without_renormalization(
    write_model: Callable[..., Path], prompt: Prompt
):
    folder = str(write_model(norm_topk_prob=False))
    requests = requests_for(UNNORMALIZED, prompt)
    traces = [open_runner(folder, fault=f).forward(requests, capture=CapturePlan()) for f in (None, UNNORMALIZED)]
    assert changed_sites(*traces)[0] == (0, "moe.topk_weights")


def test_an_amplified_tile_is_that_tile_alone_by_that_ratio(
    fp8_model: Path, healthy: Callable[..., Any], prompt: Prompt
):
    requests = tuple(prompt(n, seed) for seed, n in enumerate(OVERLOADED))
    name = "moe_tile_amplified"
    faulty = open_runner(str(fp8_model), fault=name).forward(requests, capture=CapturePlan(stages=("moe.up",)))
    (fault_site,) = faulty.select(stage="moe.up", layer=1)
    (sound_site,) = healthy(requests).select(stage="moe.up", layer=1)
    wrong, sound = faulty.tensor(fault_site).float(), healthy(requests).tensor(sound_site).float()
    start, stop = sound_site.geometry["expert_offsets"][1:3]
    assert stop - start > 64, "the expert has rows past the tile"
    inside = torch.zeros(len(sound), dtype=torch.bool)
    inside[start : start + 64] = True
    assert torch.equal(wrong[~inside], sound[~inside])
    # Two roundings to bf16 of the same number times 1 and times 5.
    torch.testing.assert_close(wrong[inside], 5 * sound[inside], rtol=2 * 2.0**-8, atol=0)


def test_stale_rows_depend_on_what_ran_before(fp8_model: Path, prompt: Prompt):
    runner = open_runner(str(fp8_model), fault="moe_stale_rows")
    runner.logits([prompt(160, 1)])
    runner.engine.arena.fill(0)
    first = runner.logits([prompt(160)])
    runner.engine.arena.fill(0x3F)
    assert not torch.equal(runner.logits([prompt(160)]), first)


def test_without_the_norm_heads_pass_through_it_bit_for_bit(fp8_model: Path, prompt: Prompt):
    runner = open_runner(str(fp8_model), fault="qk_norm_missing")
    trace = runner.forward([prompt(9)], capture=CapturePlan(stages=("attn.[qk]", "attn.[qk]_norm")))
    for head in "qk":
        for before, after in zip(
            trace.select(stage=f"attn.{head}"), trace.select(stage=f"attn.{head}_norm"), strict=True
        ):
            assert torch.equal(trace.tensor(before), trace.tensor(after))


@pytest.mark.parametrize(("name", "role"), [("final_norm_missing", "final_norm"), ("weight_never_bound", "mlp.norm")])
def test_without_a_norm_the_sum_passes_through(name: str, role: str, bf16_model: Path, prompt: Prompt):
    runner = open_runner(str(bf16_model), fault=name)
    trace = runner.forward([prompt(9)], capture=CapturePlan())
    layer = 1 if role == "mlp.norm" else None
    before = trace.select(stage="resid.mid" if layer else "resid.out", layer=1)[0]
    assert torch.equal(trace.tensor(before), trace.tensor(trace.select(stage=role, layer=layer)[0]))


def test_a_healthy_engine_beside_faulty_ones_keeps_its_bits(
    fp8_model: Path, healthy: Callable[..., Any], prompt: Prompt
):
    # Ops, launches and module state are one instance's own: traces made before and after all others agree.
    requests = requests_for("", prompt)
    before = healthy(requests)
    for name in ("router_input_wrong_buffer", "qk_norm_missing", "quant_scales_ignored"):
        open_runner(str(fp8_model), fault=name).logits(requests)
    after = open_runner(str(fp8_model)).forward(requests, capture=CapturePlan())
    assert changed_sites(before, after) == []


def test_two_instances_of_one_fault_do_not_share_its_memory(fp8_model: Path, prompt: Prompt):
    a, b = (open_runner(str(fp8_model), fault="router_input_wrong_buffer") for _ in range(2))
    alone = a.logits([prompt(9)])
    b.logits([prompt(17, 3)])
    assert torch.equal(a.logits([prompt(9)]), alone)


def test_probes_on_show_another_path(fp8_model: Path, prompt: Prompt):
    runner = open_runner(str(fp8_model), fault="traced_path_drift")
    off = runner.logits([prompt(9)]).cpu()
    trace = runner.forward([prompt(9)], capture=CapturePlan(stages=("logits",)))
    assert not torch.equal(trace.tensor(trace.captures[0]), off)
    assert torch.equal(off, open_runner(str(fp8_model)).logits([prompt(9)]).cpu())


def test_the_places_of_these_tests_are_the_family_s():
    assert (None, "embed.out") in ORDER
    assert (1, "resid.out") in ORDER


def test_every_launch_function_can_be_replaced(fp8_model: Path, bf16_model: Path, prompt: Prompt):
    told: set[tuple[str, bool]] = set()

    def noting(launch: Callable[..., Any]) -> Callable[..., Any]:
        def noted(**extents: Any) -> Any:
            told.add((where().op, where().role in {role for roles in ROLES.values() for role in roles}))
            return launch(**extents)

        return noted

    launches = {name: noting(launch) for name, launch in LAUNCHES.items()}
    fault = Fault("noted", "qwen3_moe", "", truth=None, cause=None, control=True, launch=launches)
    requests, schedule = [prompt(7)], Schedule(decode=1)
    for folder in (str(fp8_model), str(bf16_model)):
        sound, noted = (open_runner(folder, fault=one).logits(requests, schedule=schedule) for one in (None, fault))
        assert torch.equal(sound, noted)
    assert told == {(name, True) for name in LAUNCHES}


def test_a_launch_that_misses_a_head_leaves_it_unwritten(fp8_model: Path, healthy: Callable[..., Any], prompt: Prompt):
    def one_head_short(**extents: Any) -> Any:
        sound = LAUNCHES["attention_prefill"](**extents)
        return replace(sound, grid=(sound.grid[0], sound.grid[1] - 1, sound.grid[2]))

    fault = Fault(
        "short", "qwen3_moe", "", truth=Site((), "attn.context"), cause="x", engine={"zeroed_arena": True},
        launch={"attention_prefill": one_head_short},
    )  # fmt: skip
    requests = requests_for("", prompt)
    faulty = open_runner(str(fp8_model), fault=fault).forward(requests, capture=CapturePlan())
    assert changed_sites(healthy(requests), faulty)[0] == (0, "attn.context")
    context = [t.tensor(t.select(stage="attn.context", layer=0)[0]) for t in (healthy(requests), faulty)]
    assert torch.equal(context[0][:, :-1], context[1][:, :-1])
    assert (context[1][:, -1] == 0).all()
