"""What happens when a forward pass calls a probe? Graft, filter rows, copy, describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.errors import ProbeError
from parity.probes.computing import PlacedComputation
from parity.probes.grafting import PlacedGraft
from parity.records import Capture, Rows, as_json, site_name
from parity.stages import term

if TYPE_CHECKING:
    from parity.probes.recorder import Recorder


@dataclass(frozen=True)
class Asked:
    """What the plan and the grafts want at one site. held: a computed graft reads it later."""

    captured: bool
    grafts: tuple[PlacedGraft | PlacedComputation, ...]
    held: bool


class StepProbe:
    """The probe of one step: called with a tensor at each named point of the forward pass."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        phase: str,
        step: int,
        chunk: int,
        rows: Rows,
        last_position: Sequence[int] | None,
    ) -> None:
        self._recorder = recorder
        self._phase = phase
        self._step = step
        self._chunk = chunk
        self._rows = rows
        self._last_position = last_position

    def wants(self, stage: str, layer: int | None = None) -> bool:
        """True when this point is captured or grafted: whether a kernel is to be given its optional output."""
        asked = self._recorder.asked(layer, stage)
        return asked.captured or asked.held or bool(asked.grafts)

    def __call__(
        self,
        stage: str,
        tensor: torch.Tensor,
        layer: int | None = None,
        *,
        rows: Rows | None = None,
        geometry: Mapping[str, Any] | None = None,
        launch: Any = None,
        placement: Mapping[str, Any] | None = None,
        reduction: str = "complete",
        basis: str | None = None,
        model: str = "target",
        variant: str | None = None,
        replaceable: bool = True,
    ) -> torch.Tensor:
        """Hand over `tensor` at `stage` of `layer`; returns the tensor to go on with.

        tensor: axes as the vocabulary says, leading axis the rows. rows: [N], left out for the step's token rows.
        geometry, launch: mappings or records of plain values; tensors and arrays become lists.
        replaceable: False where the forward pass cannot go on with a returned tensor (a fused kernel's inner value).
        Returns `tensor` itself, or, under a graft, a contiguous copy with the named rows replaced. A capture is a copy
        of what is returned. Raises ProbeError when shape, axes and rows contradict each other.
        """
        recorder = self._recorder
        asked = recorder.asked(layer, stage)
        if not recorder.is_current(self):
            raise ProbeError(
                place=site_name(layer, stage),
                expected="the probe of the step that is running",
                found="that of an earlier one",
                next_step="Take a new probe from recorder.step() for each step.",
            )
        if not asked.captured and not asked.grafts and not asked.held:
            return tensor
        rows = self._rows if rows is None else rows
        _check_rows(stage, layer, tensor, rows)
        if asked.grafts and not replaceable:
            raise ProbeError(
                place=f"graft at {site_name(layer, stage)}",
                expected="a point whose tensor can be replaced",
                found="a value inside a fused kernel",
                next_step="Graft at the kernel's inputs or at its last stage.",
            )
        geometry = dict(_plain(geometry))

        def described(shown: torch.Tensor, rows: Rows) -> Capture:
            return Capture(
                number=recorder.captures,
                stage=stage,
                layer=layer,
                phase=self._phase,
                step=self._step,
                chunk=self._chunk,
                axes=term(stage).axes,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(shown.shape),
                rows=rows,
                geometry=geometry,
                launch=_plain(launch),
                placement=placement,
                reduction=reduction,
                basis=basis,
                model=model,
                variant=variant,
            )

        if asked.grafts or asked.held:
            # An engine may fill the same arrays again in its next step.
            whole = described(tensor, rows.take(np.arange(len(rows))))
            for graft in asked.grafts:
                tensor = graft.apply(tensor, whole)
            if asked.held:
                recorder.held.take(whole, tensor.detach())
        if not asked.captured:
            return tensor
        recorder.fired(layer, stage)
        shown = tensor.detach()
        mask = recorder.tokens.keep(rows, phase=self._phase, last_position=self._last_position)
        if mask is not None:
            index = np.flatnonzero(mask)
            rows, shown = rows.take(index), shown[torch.from_numpy(index).to(shown.device)]
            # expert_offsets and tiles speak of the whole launch: keep which of its rows these were.
            geometry["row"] = index.astype(np.int64)
        else:
            rows = rows.take(np.arange(len(rows)))
        if not len(rows):
            return tensor
        capture = described(shown, rows)
        recorder.captures += 1
        recorder.sink.take(capture, shown, owned=mask is not None)
        return tensor


def _check_rows(stage: str, layer: int | None, tensor: torch.Tensor, rows: Rows) -> None:
    axes = term(stage).axes
    place = site_name(layer, stage)
    if tensor.dim() != len(axes) or tensor.shape[0] != len(rows):
        raise ProbeError(
            place=place,
            expected=f"axes {' '.join(axes)} with {len(rows)} rows",
            found=f"shape {tuple(tensor.shape)}",
            next_step="Pass the tensor with these axes, and rows= when it has others than the step's token rows.",
        )
    expert_rows = axes[0] == "R"
    if (rows.slot is not None) != expert_rows or (rows.expert is not None) != expert_rows:
        raise ProbeError(
            place=place,
            expected="slot and expert of each row" if expert_rows else "token rows, without slot and expert",
            found="rows without them" if expert_rows else "rows with them",
            next_step="Pass rows=Rows(request, position, slot, expert) exactly at the expert stages.",
        )


def _plain(value: Any) -> Mapping[str, Any]:
    """Geometry or launch as plain JSON values; tensors are read off the device here."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        value = {key: item.tolist() if isinstance(item, torch.Tensor) else item for key, item in value.items()}
    return as_json(value)
