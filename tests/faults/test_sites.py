"""Where does each shipped fault first change a run? At the stage that its truth names, and at none before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.faults import shipped_faults
from parity.records import Site
from parity.runner import CapturePlan, Request
from parity.stages import QWEN3_MOE
from parity.trace import Trace
from parity_kernels.forward.runner import open_runner

Prompt = Callable[..., Request]
LAYERS = 2
SHORT = (17, 9)
OVERLOADED = (160,)
"""The least prompt whose busiest expert passes the cap of 128 rows, see tests/forward/test_engine.py."""

TRUNCATED = {"moe_tile_truncation", "moe_stale_rows"}
SITES = sorted(
    name
    for name, fault in shipped_faults().items()
    if fault.truth is not None
    and all(fault.needs.get(key, want) == want for key, want in {"norm_topk_prob": True}.items())
)


def changed_sites(healthy: Trace, faulty: Trace) -> list[tuple[int | None, str]]:
    """Sites whose captures differ by a bit, in order of computation; NaN equals no healthy value."""
    found = []
    for layer, stage in QWEN3_MOE.sites(LAYERS):
        pairs = zip(
            healthy.select(stage=stage.name, layer=layer), faulty.select(stage=stage.name, layer=layer), strict=True
        )
        if not all(torch.equal(healthy.tensor(a), faulty.tensor(b)) for a, b in pairs):
            found.append((layer, stage.name))
    return found


@pytest.fixture(scope="module")
def healthy(fp8_model: Path) -> Callable[..., Trace]:
    runner, kept = open_runner(str(fp8_model)), {}

    def trace(requests: tuple[Request, ...]) -> Trace:
        if requests not in kept:
            kept[requests] = runner.forward(requests, capture=CapturePlan())
        return kept[requests]

    return trace


def reached(site: Site) -> list[tuple[int | None, str]]:
    inside = {stage.name for stage in QWEN3_MOE.layer}
    if site.stage not in inside:
        return [(None, site.stage)]
    return [(layer, site.stage) for layer in site.layers or range(LAYERS)]


@pytest.mark.parametrize("name", SITES)
def test_the_first_changed_stage_is_the_truth(name: str, fp8_model: Path, healthy: Callable[..., Any], prompt: Prompt):
    fault = shipped_faults()[name]
    lengths = OVERLOADED if name in TRUNCATED else SHORT
    requests = tuple(prompt(length, seed) for seed, length in enumerate(lengths))
    runner = open_runner(str(fp8_model), fault=name)
    faulty = runner.forward(requests, capture=CapturePlan())
    changed = changed_sites(healthy(requests), faulty)
    assert changed, "the fault changes nothing"
    truth = [site for one in (fault.truth, *fault.also) for site in reached(one)]
    order = {(layer, stage.name): n for n, (layer, stage) in enumerate(QWEN3_MOE.sites(LAYERS))}
    assert changed[0] == min(truth, key=order.__getitem__)
    said = repr((faulty.run, faulty.captures, runner.describe()))
    assert name not in said
    assert "fault" not in said.lower().replace("default", "")
