"""How does a graft get into a vLLM step? The recorder is asked while the step runs, and its answer is written in place.

A run with grafts feeds its requests one after the other: all rows of a step then are of one request, phase and chunk,
and the probe of that step can stand behind the hooks. What goes on in another tensor than the one that a hook sees
cannot be replaced (`INNER`): the recorder refuses a graft there, and a finding there is proved at the first stage
outside that reads it.
"""

from __future__ import annotations

from typing import Any

import torch

from parity.errors import ProbeError
from parity.probes import Recorder
from parity.probes.step import StepProbe
from parity.records import site_name
from parity.stages import term
from parity_oracles.stagemap import slot_rows
from parity_oracles.vllm.batch import Batch, Feeding, Progress

INNER = {
    "resid.mid": "added up in the kernel of the norm that follows, which takes the sum from there",
    "resid.out": "the sum of two tensors, added up in the next norm",
    "moe.topk_ids": "chosen together with their weights",
    "moe.down": "not on the engine's path: its kernel asked again",
    "logits": "shown after the engine's own choice of rows",
}
"""Stages that are shown and cannot be replaced, with the reason."""


class Live:
    """The probe of the step in progress, for a run of requests one by one."""

    def __init__(self, recorder: Recorder, progress: Progress, feeding: Feeding) -> None:
        self._recorder = recorder
        self._progress = progress
        self._feeding = feeding
        self.group: Any = None
        self.probe: StepProbe | None = None

    def begin(self, batch: Batch) -> None:
        """A step begins. Raises ProbeError when rows of several requests or phases are in it."""
        groups = list(self._progress.groups(batch))
        if len(groups) != 1:
            raise ProbeError(
                place="graft in vLLM",
                expected="rows of one request in a step",
                found=f"{len(groups)} groups of rows",
                next_step="The scheduler packs what was not asked for; graft without other requests in the engine.",
            )
        self.group = groups[0]
        self.probe = self._recorder.step(
            phase=self.group.phase,
            step=self.group.step,
            chunk=self.group.chunk,
            rows=batch.rows,
            last_position=self._feeding.last_position,
        )

    def show(
        self, site: tuple[int | None, str], tensor: torch.Tensor, own: bool, batch: Batch, ids: torch.Tensor | None
    ) -> None:
        """Hand over a stage's tensor, [T, ...] or [T, S, ...], and write what comes back into it.

        own: it is a view of the engine's own; what is not cannot be replaced. ids: [T, S], the experts of each row, at
        stages of expert rows.
        """
        assert self.probe is not None
        layer, stage = site
        rows, shown = batch.rows, tensor
        if term(stage).axes[0] == "R":
            if ids is None:
                raise ProbeError(
                    place=site_name(layer, stage), expected="the router's ids before it", found="none",
                    next_step="The engine's kernel is asked before its router; correct the stage map.",
                )  # fmt: skip
            rows, shown = slot_rows(batch.rows, ids), tensor.flatten(0, 1)
        put = self.probe(stage, shown, layer, rows=rows, replaceable=own and stage not in INNER)
        if put is not shown:
            tensor.copy_(put.view_as(tensor))
