"""What does a forward pass hold when nobody captures? The recorder and the probe that do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from parity.records import Rows, Run


class Probe(Protocol):
    """What a forward pass calls at each named point of one step."""

    def __call__(
        self, stage: str, tensor: torch.Tensor, layer: int | None = None, *, rows: Rows | None = None, **about: Any
    ) -> torch.Tensor:
        """The tensor to go on with: `tensor` itself unless a graft replaces rows of it."""
        ...

    def wants(self, stage: str, layer: int | None = None) -> bool:
        """True when the probe at this point is to be fired: whether to pass a kernel its optional output."""
        ...


class _OffProbe:
    """Returns what it is given."""

    def __call__(self, stage: str, tensor: torch.Tensor, layer: int | None = None, **about: Any) -> torch.Tensor:
        return tensor

    def wants(self, stage: str, layer: int | None = None) -> bool:
        return False


class _Off:
    """A recorder that records nothing; falsy, so that `if recorder:` reads well."""

    def step(self, **about: Any) -> Probe:
        return _OFF_PROBE

    def extend(self, request: int, ids: Sequence[int]) -> None:
        return None

    def bind(self, run: Run) -> _Off:
        return self

    def __enter__(self) -> _Off:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "probes.OFF"


_OFF_PROBE = _OffProbe()
OFF = _Off()
