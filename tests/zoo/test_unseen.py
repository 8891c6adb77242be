"""The faults of tests/zoo/faults change what the engine computes, and first at the site that they name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parity.faults import load_faults
from parity.runner import CapturePlan, open_runner
from parity.stages import QWEN3_MOE

FAULTS = load_faults(Path(__file__).resolve().parent / "faults")


def test_all_can_be_planted():
    assert FAULTS.problems == ()
    assert len(FAULTS.faults) == 5


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS.faults])
def test_the_error_begins_at_the_truth(name: str, fp8_model: Path, prompt):
    fault = FAULTS.named(name)
    assert fault is not None
    # The tiny model has two layers, four heads and five experts: an instance that lies in it.
    hyper = {"layers": 2, "heads": 4, "experts": 5}
    planted = next((one for one in (fault.instance(seed, hyper) for seed in range(1, 9)) if one is not fault), fault)
    request = prompt(130, 3)
    healthy, faulty = (
        open_runner(f"triton:{fp8_model}", fault=one).forward([request], capture=CapturePlan())
        for one in (None, planted)
    )
    differing = [
        (layer, stage.name)
        for layer, stage in QWEN3_MOE.sites(2)
        if not torch.equal(*(_tensor(trace, layer, stage.name) for trace in (healthy, faulty)))
    ]
    assert planted.truth is not None
    layer = planted.truth.layers[0] if planted.truth.layers else 0
    assert differing[0] == (layer, planted.truth.stage)


def _tensor(trace, layer, stage):
    return trace.tensor(trace.select(stage=stage, layer=layer)[0])
