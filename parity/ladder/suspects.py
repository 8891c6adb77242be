"""Which other tensors might the SUT have read or written instead? The oracle's stage on the layer's other buffers."""

from __future__ import annotations

import numpy as np
import torch

from parity.align import Aligned, align
from parity.errors import ParityError
from parity.ladder.replay import Replay, ReplayedSite

PARTNERS = {"moe.gate": "moe.up", "moe.up": "moe.gate"}


def related_tensors(replay: Replay, site: ReplayedSite) -> dict[str, torch.Tensor]:
    """Tensors that an error at `site` may be explained by, named as ErrorField.related asks.

    The oracle's weight of a linear stage (from an oracle that has `weight_of`), its tensor of the other half of a fused
    gate/up projection, and, for a stage of one [T, D] input, what the oracle computes from every other [T, D] tensor of
    the SUT's layer: a stage that reads a buffer which another kernel has written gives one of these. Empty where the
    stage was not replayed.
    """
    if site.sut is None or site.oracle is None:
        return {}
    found: dict[str, torch.Tensor] = {}
    weight_of = getattr(replay.oracle, "weight_of", None)
    if weight_of is not None and (weight := weight_of(site.stage, site.layer)) is not None:
        found["weight"] = weight
    partner = PARTNERS.get(site.stage)
    if partner is not None and (other := replay.site(site.layer, partner).oracle) is not None:
        found[partner] = other
    floating = [name for name, tensor in site.inputs.items() if tensor.is_floating_point()]
    if len(floating) != 1 or site.inputs[floating[0]].ndim != 2:
        return found
    own = site.inputs[floating[0]]
    for name, aligned in _buffers(replay, site.layer).items():
        fits = aligned.tensor.shape == own.shape and np.array_equal(aligned.position, site.sut.position)
        if name != floating[0] and name != site.stage and fits:
            try:
                inputs = {**site.inputs, floating[0]: aligned.tensor.to(own.dtype)}
                found[f"{site.stage}<-{name}"] = site.recompute(replay.oracle, recipe=replay.recipe, inputs=inputs)
            except ParityError:
                # An oracle that cannot compute the stage on these values explains nothing by them.
                continue
    return found


def _buffers(replay: Replay, layer: int | None) -> dict[str, Aligned]:
    """Every captured [T, D] tensor of the SUT's layer and its input residual, by name."""
    if layer is None:
        return {}
    names = ["resid.in", *(stage.name for stage in replay.family.layer if stage.axes == ("T", "D"))]
    found = {}
    for name in names:
        at, stage = replay.family.resolve(layer, name, layers=replay.trace.run.layers)
        aligned = align(replay.trace, stage, at, replay.request)
        if aligned is not None:
            found[name] = aligned
    return found
