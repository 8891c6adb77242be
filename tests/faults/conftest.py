"""Healthy traces of the random model, and where a faulty one first differs from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.faults import Fault
from parity.records import Site
from parity.runner import CapturePlan, Request
from parity.stages import QWEN3_MOE
from parity.trace import Trace
from parity_kernels.forward.runner import open_runner

Place = tuple[int | None, str]

LAYERS = 2
ORDER = {(layer, stage.name): n for n, (layer, stage) in enumerate(QWEN3_MOE.sites(LAYERS))}


def changed_sites(healthy: Trace, faulty: Trace) -> list[Place]:
    """Sites whose captures differ by a bit, in order of computation; NaN equals no healthy value."""
    found = []
    for layer, stage in ORDER:
        pairs = zip(healthy.select(stage=stage, layer=layer), faulty.select(stage=stage, layer=layer), strict=True)
        if not all(torch.equal(healthy.tensor(a), faulty.tensor(b)) for a, b in pairs):
            found.append((layer, stage))
    return found


def first_truth(fault: Fault) -> Place:
    """The first of the sites that the fault states, in order of computation."""
    inside = {stage.name for stage in QWEN3_MOE.layer}

    def places(site: Site) -> list[Place]:
        layers = site.layers or tuple(range(LAYERS))
        return [(layer, site.stage) for layer in layers] if site.stage in inside else [(None, site.stage)]

    assert fault.truth is not None
    return min((place for site in (fault.truth, *fault.also) for place in places(site)), key=ORDER.__getitem__)


@pytest.fixture(scope="session")
def healthy(fp8_model: Path) -> Callable[[tuple[Request, ...]], Trace]:
    """healthy(requests): the trace of the engine without a fault, made once."""
    runner, kept = open_runner(str(fp8_model)), {}

    def trace(requests: tuple[Request, ...]) -> Trace:
        if requests not in kept:
            kept[requests] = runner.forward(requests, capture=CapturePlan())
        return kept[requests]

    return trace
