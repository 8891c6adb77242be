"""What does a detector read? One stage's error with its geometry, and the sums that several detectors share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.align import Aligned
from parity.errors import DtypeError, ShapeError
from parity.fingerprint.sums import Sums, pair_sums, squared_norm
from parity.metrics import READABLE
from parity.records import site_name

LARGEST = 1e15
"""Magnitude to which values are clamped (garbage memory holds any): squares of 10^8 of them add up within fp32."""


def finite_values(tensor: torch.Tensor) -> torch.Tensor:
    """A floating tensor in fp32 on the CPU, 0 in place of what is not finite; itself where that changes nothing."""
    wide = tensor.detach().to("cpu", torch.float32)
    return wide if bool(np.isfinite(wide.numpy()).all()) else torch.nan_to_num(wide, 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class ErrorField:
    """One stage of one request, both sides in canonical form, with all that is known about its rows.

    oracle, sut: [T, ...] or, for expert rows, [T, S, ...] of any readable floating dtype, or integers for ids; best
        with `oracle` from a replay on the SUT's own inputs: on a chained pair inherited error has a shape too.
    axes: letters of parity.stages, (T, S, F) for expert rows. position, phase, launch: [T]; launch says which launch
        (prefill chunk, decode step) computed the token. None: positions 0.., one phase, one launch.
    expert, row_in_expert: [T, S]; the row's number inside its expert in its launch, negative where unknown.
    tile_m: tile height where the kernel states it.
    inputs: the SUT's own inputs of the stage by the names of the family's graph (`attn.q_rope`, `resid.in`).
    related: other tensors worth a look, by name: `moe.up` is the oracle's tensor of that stage, `sut:attn.context` the
        SUT's, `moe.router_logits<-resid.mid` the oracle's output of the judged stage on another tensor's values, and
        `weight` the oracle's weight of the stage, [N, K] or [E, N, K].
    hyper: effective hyper-parameters of the oracle (`head_dim`, `rope_theta`, `rms_norm_eps`, ...).
    noise: relative L2 error of a clean row of this stage, where a floor is known.
    exact: the oracle's tensor in exact arithmetic where `oracle` is an emulation that rounds; a weight is solved by it.
    Raises ShapeError for sides of different shapes, DtypeError for a dtype that cannot be read.
    """

    stage: str
    layer: int | None
    oracle: torch.Tensor
    sut: torch.Tensor
    axes: tuple[str, ...]
    position: NDArray[np.int64] | None = None
    phase: NDArray[np.str_] | None = None
    launch: NDArray[np.integer] | None = None
    expert: NDArray[np.integer] | None = None
    row_in_expert: NDArray[np.integer] | None = None
    tile_m: int | None = None
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    related: Mapping[str, torch.Tensor] = field(default_factory=dict)
    hyper: Mapping[str, Any] = field(default_factory=dict)
    noise: float | None = None
    exact: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.oracle.shape != self.sut.shape or len(self.axes) != self.sut.ndim or not self.axes:
            raise ShapeError(
                place=f"error field of {self.name}",
                expected=f"two tensors of one shape with axes {' '.join(self.axes) or 'named'}",
                found=f"oracle {list(self.oracle.shape)}, sut {list(self.sut.shape)}",
                next_step="Align both sides first (parity.align), and name every axis.",
            )
        for side, tensor in (("oracle", self.oracle), ("sut", self.sut)):
            if tensor.is_floating_point() != self.sut.is_floating_point() or (
                tensor.is_floating_point() and tensor.dtype not in READABLE
            ):
                raise DtypeError(
                    place=f"{side} of the error field of {self.name}",
                    expected="floating tensors on both sides, or ids on both",
                    found=str(tensor.dtype).removeprefix("torch."),
                    next_step="Unpack or dequantize packed formats first.",
                )

    @staticmethod
    def of(
        aligned: Aligned,
        oracle: torch.Tensor,
        *,
        inputs: Mapping[str, torch.Tensor] | None = None,
        related: Mapping[str, torch.Tensor] | None = None,
        hyper: Mapping[str, Any] | None = None,
        noise: float | None = None,
    ) -> ErrorField:
        """The field of an aligned stage of the SUT and the oracle's tensor, row for row."""
        return ErrorField(
            stage=aligned.stage,
            layer=aligned.layer,
            oracle=oracle,
            sut=aligned.tensor,
            axes=aligned.axes,
            position=aligned.position,
            phase=aligned.phase,
            launch=aligned.launch,
            expert=aligned.expert,
            row_in_expert=aligned.row_in_expert,
            tile_m=aligned.tile_m,
            inputs=inputs or {},
            related=related or {},
            hyper=hyper or {},
            noise=noise,
        )

    def with_sut(self, sut: torch.Tensor) -> ErrorField:
        """The same field with another SUT tensor."""
        return replace(self, sut=sut)

    @property
    def name(self) -> str:
        return site_name(self.layer, self.stage)

    @property
    def ids(self) -> bool:
        """Whether the tensors are ids, which have no distance."""
        return not self.sut.is_floating_point()

    @property
    def lead(self) -> int:
        """How many leading axes number rows: 2 for expert rows in (token, slot) order, else 1."""
        return 2 if self.axes[:2] == ("T", "S") and self.sut.ndim > 2 else 1

    @property
    def tokens(self) -> int:
        return self.sut.shape[0]

    @property
    def slots(self) -> int:
        """Rows of one token: top-k for expert rows, else 1."""
        return self.sut.shape[1] if self.lead == 2 else 1

    @property
    def rows(self) -> int:
        return self.tokens * self.slots

    @property
    def width(self) -> int:
        return int(np.prod(self.sut.shape[self.lead :], dtype=np.int64))

    @property
    def heads(self) -> int:
        """Heads of the row; 0 where the axes name none."""
        trailing = self.axes[self.lead :]
        return self.sut.shape[self.lead] if len(trailing) == 2 and trailing[0] in ("H", "G") else 0

    @cached_property
    def y(self) -> torch.Tensor:
        """The oracle as [rows, width] fp32; 0 where either side is not finite."""
        return self._flat(self.oracle)

    @cached_property
    def x(self) -> torch.Tensor:
        """The SUT as [rows, width] fp32; 0 where the SUT or the oracle is not finite."""
        return self._flat(self.sut)

    @cached_property
    def d(self) -> torch.Tensor:
        """x - y; -y where the SUT alone is not finite."""
        return self.x - self.y

    @cached_property
    def nonfinite(self) -> torch.Tensor | None:
        """[rows, width] bool, where the SUT alone is not finite; None where it is finite throughout."""
        if self._tame:
            return None
        bad = ~torch.isfinite(self._wide(self.sut))
        return bad & torch.isfinite(self._wide(self.oracle)) if bool(bad.any()) else None

    @cached_property
    def sums(self) -> Sums:
        """Inner products of each (row, column cell); a cell is no wider than a head or a block of 128 columns."""
        return pair_sums(self.y, self.x, self.d, heads=self.heads)

    @property
    def energy(self) -> float:
        """Squared norm of the error, nonfinite elements counted as lost (x = 0)."""
        return float(self.sums.dd.sum())

    @cached_property
    def size(self) -> float:
        """Squared norm of the SUT."""
        return squared_norm(self.x)

    @cached_property
    def silent(self) -> bool:
        """Nothing to read: no element, or no error."""
        return self.rows * self.width == 0 or (self.energy == 0 and self.nonfinite is None)

    @cached_property
    def row_position(self) -> NDArray[np.int64]:
        """[rows], the position of each row's token."""
        position = np.arange(self.tokens) if self.position is None else np.asarray(self.position, np.int64)
        return np.repeat(position, self.slots)

    @cached_property
    def row_launch(self) -> NDArray[np.int64]:
        """[rows], which launch computed the row."""
        launch = np.zeros(self.tokens, np.int64) if self.launch is None else np.asarray(self.launch, np.int64)
        return np.repeat(launch, self.slots)

    @cached_property
    def row_expert(self) -> NDArray[np.int64] | None:
        """[rows], the expert of each row; None where rows have none."""
        return None if self.expert is None or self.lead != 2 else np.asarray(self.expert, np.int64).reshape(-1)

    @cached_property
    def row_number(self) -> NDArray[np.int64] | None:
        """[rows], the row's number inside its expert; None where rows have none."""
        numbers = self.row_in_expert
        return None if numbers is None or self.lead != 2 else np.asarray(numbers, np.int64).reshape(-1)

    @cached_property
    def range(self) -> tuple[float, float]:
        """The least and the largest value of x; of no element, 0 and 0."""
        values = self.x.numpy()
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)

    @cached_property
    def _besides(self) -> dict[int, torch.Tensor | None]:
        return {}

    def beside(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """Another tensor as [rows, width] fp32; None where it has another number of elements, or no fp32 values.
        Token rows are repeated for each slot of expert rows where that makes them fit. Kept for `inputs`, `related`
        and `exact`, which live as long as the field."""
        if not any(tensor is kept for kept in (*self.inputs.values(), *self.related.values(), self.exact)):
            return self._beside(tensor)
        if id(tensor) not in self._besides:
            self._besides[id(tensor)] = self._beside(tensor)
        return self._besides[id(tensor)]

    def _beside(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None or not tensor.is_floating_point() or not tensor.ndim or tensor.shape[0] != self.tokens:
            return None
        if tensor.numel() == self.rows * self.width:
            return finite_values(tensor).reshape(self.rows, self.width)
        if self.lead == 2 and tensor.numel() == self.tokens * self.width:
            flat = finite_values(tensor).reshape(self.tokens, self.width)
            return flat.repeat_interleave(self.slots, 0)
        return None

    @cached_property
    def _tame(self) -> bool:
        """Whether both sides are finite and small throughout, as their sum of squares then is: it spares a mask."""
        return squared_norm(self._wide(self.sut)) + squared_norm(self._wide(self.oracle)) < LARGEST**2

    def _wide(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to("cpu", torch.float32).reshape(self.rows, self.width)

    def _flat(self, tensor: torch.Tensor) -> torch.Tensor:
        here = self._wide(tensor)
        if self._tame:
            return here
        there = self._wide(self.oracle)
        bad = ~torch.isfinite(there) | ~torch.isfinite(here)
        return torch.where(bad, 0.0, here).clamp(-LARGEST, LARGEST)
