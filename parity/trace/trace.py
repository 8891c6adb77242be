"""What every trace offers, wherever its tensors live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import torch

from parity.display import Displayed
from parity.records import Capture, Run

ANY: Final[Any] = object()
"""Selects every layer; None cannot, since it names the stages outside the layers."""


class Trace(Protocol):
    """All captures of one run. `complete` is False when the run did not reach its end."""

    run: Run
    captures: tuple[Capture, ...]
    complete: bool

    def tensor(self, capture: Capture) -> torch.Tensor:
        """The payload of a capture; do not write to it."""
        ...

    def select(self, *, stage: str | None = None, layer: Any = ANY, phase: str | None = None) -> list[Capture]:
        """Captures of a stage, layer and phase, each left out meaning all, in order of capture."""
        ...


def select(
    captures: tuple[Capture, ...], *, stage: str | None = None, layer: Any = ANY, phase: str | None = None
) -> list[Capture]:
    """The captures that fit, in order; the one implementation behind every `Trace.select`."""
    return [
        capture
        for capture in captures
        if (stage is None or capture.stage == stage)
        and (layer is ANY or capture.layer == layer)
        and (phase is None or capture.phase == phase)
    ]


def describe(kind: str, run: Run, captures: tuple[Capture, ...], *, complete: bool) -> str:
    """One readable line: which model, how many captures of how many requests, and whether the run reached its end."""
    tokens = sum(len(ids) for ids in run.requests)
    state = "complete" if complete else "INCOMPLETE"
    s = "" if len(run.requests) == 1 else "s"
    return (
        f"{kind}({run.model}, {run.family}, {run.layers} layers, recipe {run.recipe.name}: {len(captures)} captures "
        f"of {len(run.requests)} request{s}, {tokens} tokens; {state})"
    )


class MemoryTrace(Displayed):
    """A trace whose tensors are in memory: for oracles, emulations and tests.

    tensors: payload by `Capture.number`; not copied.
    """

    def __init__(
        self, run: Run, captures: tuple[Capture, ...], tensors: Mapping[int, torch.Tensor], *, complete: bool = True
    ) -> None:
        self.run = run
        self.captures = captures
        self.complete = complete
        self._tensors = tensors

    def tensor(self, capture: Capture) -> torch.Tensor:
        return self._tensors[capture.number]

    def select(self, *, stage: str | None = None, layer: Any = ANY, phase: str | None = None) -> list[Capture]:
        return select(self.captures, stage=stage, layer=layer, phase=phase)

    def __len__(self) -> int:
        return len(self.captures)

    def __repr__(self) -> str:
        return describe("MemoryTrace", self.run, self.captures, complete=self.complete)
