"""What does a graft need that is computed from the forward pass it is put into? The tensors seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from parity.errors import ProbeError
from parity.records import Capture, Run, site_name
from parity.runner import ComputedGraft
from parity.trace import MemoryTrace

Site = tuple[int | None, str]


class Held:
    """Copies of what computed grafts read: of the running step, and of earlier ones where one of them needs these."""

    def __init__(self, grafts: Sequence[ComputedGraft], run: Run) -> None:
        self._run = run
        self._sites: dict[Site, bool] = {}
        for graft in grafts:
            own = ((graft.layer, graft.stage),) if graft.history else ()
            for site in (*graft.needs, *own):
                self._sites[site] = self._sites.get(site, False) or graft.history
        self._kept: list[tuple[Capture, torch.Tensor]] = []
        self._earlier = 0

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """A request goes on with `ids`: grafts that read the ids of their rows find those that the run chose itself."""
        fed = list(self._run.requests)
        fed[request] = (*fed[request], *ids)
        self._run = replace(self._run, requests=tuple(fed))

    def wants(self, site: Site) -> bool:
        """True for a site that some graft reads."""
        return site in self._sites

    def take(self, capture: Capture, tensor: torch.Tensor) -> None:
        """Keep a copy of one tensor."""
        self._kept.append((capture, tensor.clone(memory_format=torch.contiguous_format)))

    def end_step(self) -> None:
        """Forget what is not read at later steps."""
        self._kept = [(c, tensor) for c, tensor in self._kept if self._sites[c.layer, c.stage]]
        self._earlier = len(self._kept)

    def seen(self, graft: ComputedGraft) -> MemoryTrace:
        """What `graft` asked for, as a trace; captures are numbered anew.

        What is held for another graft stays out: earlier steps of some sites beside the running step of others would
        look like tensors of one stage captured at different positions.
        """
        sites = {*graft.needs, (graft.layer, graft.stage)} if graft.history else set(graft.needs)
        first = 0 if graft.history else self._earlier
        kept = [(c, tensor) for c, tensor in self._kept[first:] if (c.layer, c.stage) in sites]
        return MemoryTrace(
            self._run,
            tuple(replace(capture, number=number) for number, (capture, _) in enumerate(kept)),
            {number: tensor for number, (_, tensor) in enumerate(kept)},
            complete=False,
        )


class PlacedComputation:
    """One computed graft, and whether it ever had something to replace."""

    def __init__(self, graft: ComputedGraft, held: Held) -> None:
        self.graft = graft
        self.name = site_name(graft.layer, graft.stage)
        self._held = held
        self._times = 0

    def apply(self, tensor: torch.Tensor, own: Capture) -> torch.Tensor:
        """What the graft computes for the rows of `own`; ProbeError when it is not what the forward pass can go on
        with."""
        result = self.graft.compute(own, tensor.detach(), self._held.seen(self.graft))
        if result.shape != tensor.shape or result.dtype != tensor.dtype:
            raise ProbeError(
                place=f"graft at {self.name}",
                expected=f"shape {tuple(tensor.shape)} of {tensor.dtype}, as in the forward pass",
                found=f"{tuple(result.shape)} of {result.dtype}",
                next_step="Return a tensor like the one it replaces.",
            )
        self._times += 1
        return result.to(tensor.device).contiguous()

    def check(self) -> None:
        """Raise ProbeError when the forward pass never came by."""
        if not self._times:
            raise ProbeError(
                place=f"graft at {self.name}",
                expected="the forward pass to pass through that site",
                found="that it never did",
                next_step="Name a layer and a stage that this run computes.",
            )
