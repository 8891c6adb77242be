"""How does a point's tensor pass the probe? Split into stages, shown, and joined again where a graft replaced it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.errors import ProbeError
from parity.records import Rows
from parity.stages import term
from parity_oracles.stagemap import Source, slot_rows

IDS = "moe.topk_ids"


class Session:
    """One step of a run: tensors in, stages to the probe.

    first: rows before the step's own, which a module without a cache computes again and which are not shown.
    """

    def __init__(self, probe: Any, rows: Rows, sizes: Mapping[str, int], *, first: int = 0) -> None:
        self.probe = probe
        self.rows = rows
        self.sizes = sizes
        self.first = first
        self._ids: dict[int | None, torch.Tensor] = {}

    def show(self, source: Source, value: torch.Tensor | tuple[torch.Tensor, ...]) -> dict[str, Any]:
        """Pass every stage of a source; returns by stage what the probe gave back in place of what it was shown."""
        changed = {}
        for stage, tensor in source.deliver(_whole(source, value), self.sizes):
            expert_rows = term(stage).axes[0] == "R"
            shown = tensor[self.first * (self.sizes["S"] if expert_rows else 1) :].contiguous()
            about = {"rows": self._expert_rows(source.layer)} if expert_rows else {}
            back = self.probe(stage, shown, source.layer, **about)
            if stage == IDS:
                self._ids[source.layer] = back
            if back is not shown:
                changed[stage] = back
        return changed

    def exchange(self, source: Source, value: torch.Tensor) -> torch.Tensor:
        """`value`, or a copy in which the rows that the probe replaced stand."""
        changed = self.show(source, value)
        if not changed:
            return value
        if len(source.tensor.results) > 1:
            raise ProbeError(
                place=f"graft at {', '.join(changed)} of layer {source.layer}",
                expected="a stage that is one tensor of the module",
                found=f"the sum of {len(source.tensor.results)}",
                next_step="Graft at one of its inputs.",
            )
        # Where each element of a stage lies in the module's tensor, whatever was split and transposed on the way.
        places = torch.arange(value.numel(), device=value.device).view(value.shape)
        out = value.detach().clone(memory_format=torch.contiguous_format).flatten()
        for stage, where in source.deliver(_whole(source, places), self.sizes):
            if stage in changed:
                back = changed[stage]
                own = where[len(where) - len(back) :]
                out[own.reshape(-1).long()] = back.reshape(-1).to(out.dtype)
        return out.view(value.shape)

    def _expert_rows(self, layer: int | None) -> Rows:
        if layer not in self._ids:
            raise ProbeError(
                place=f"expert rows of layer {layer}",
                expected=f"{IDS} of the same layer before them",
                found="none",
                next_step="A stage map that shows rows of experts must show the ids of the chosen experts as well.",
            )
        return slot_rows(self.rows, self._ids[layer].cpu())


def _whole(source: Source, value: Any) -> Any:
    """`value` at the results that the source names, so that `deliver` finds it there."""
    given = value if isinstance(value, tuple) else (value,)
    whole: list[Any] = [None] * (max(source.tensor.results) + 1)
    for result, one in zip(source.tensor.results, given, strict=True):
        whole[result] = one
    return tuple(whole)
