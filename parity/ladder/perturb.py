"""What is noise where exact arithmetic cannot run? The spread that one rounding of the inputs makes.

A stage's inputs are each moved by at most one rounding of the working dtype, at random, and the recipe's own stage is
computed again: the difference is what a correct stage does with the least that its inputs can be wrong by. It stands in
for the recipe's own error, which it does not contain, so a floor made of it is labelled and is no floor of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.compare import sample_aligned, sample_traces
from parity.floor import FloorSample, refuse_engine
from parity.ladder.calibrate import CleanRun
from parity.ladder.replay import Replay
from parity.runner import CapturePlan, Graft


def sample_perturbed(run: CleanRun, *, emulations: Mapping[int, Any], oracle: Any = None) -> FloorSample:
    """One clean run without any exact oracle; `oracle` is not looked at.

    chained: two runs of the emulation, routed alike, the second with the embedding moved by one rounding. isolated:
    each stage on inputs moved by one rounding. distance: another order of the recipe, as with an exact oracle.
    Raises UsageError when an engine is loaded in this process.
    """
    refuse_engine()
    emulation = emulations[run.order]
    random = torch.Generator().manual_seed(len(run.request.ids))
    clean = emulation.forward([run.request], schedule=run.schedule, capture=CapturePlan())
    moved = [
        Graft(None, "embed.out", one_rounding(clean.tensor(capture), random), capture.rows)
        for capture in clean.select(stage="embed.out")
    ]
    routed = [Graft(c.layer, c.stage, clean.tensor(c), c.rows) for c in clean.select(stage="moe.topk_ids")]
    other_run = emulation.forward([run.request], schedule=run.schedule, capture=CapturePlan(), graft=[*moved, *routed])
    sample = FloorSample(run.name, document=run.document, order=run.order)
    sample_traces(oracle=clean, clean=other_run, run=run.name, into=sample)
    recipe = emulation.describe().recipe.name
    others = [order for order in sorted(emulations) if order != run.order]
    for site in Replay(clean, emulation, recipe=recipe).sites():
        if site.sut is None or site.oracle is None:
            continue
        inputs = {name: one_rounding(x, random) if x.is_floating_point() else x for name, x in site.inputs.items()}
        near = site.recompute(emulation, recipe=recipe, inputs=inputs)
        sample_aligned(sample, oracle=near, clean=site.sut)
        if others:
            again = site.recompute(emulations[others[0]], recipe=recipe)
            sample_aligned(sample, oracle=again, clean=site.sut, mode="distance")
    return sample


def one_rounding(x: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """x with each element moved by up to half a step of its dtype either way, and rounded: about half of them move.

    BF16 and FP16 keep their dtype; fp32 moves by its own step. Zeros stay: they are exact.
    """
    unit = torch.finfo(x.dtype).eps
    wide = x.double()
    _, exponent = torch.frexp(wide)
    step = torch.where(wide == 0, 0.0, torch.ldexp(torch.full_like(wide, unit), exponent - 1))
    shift = torch.rand(x.shape, generator=random, dtype=torch.float64) * 2 - 1
    return (wide + step * shift).to(x.dtype)
