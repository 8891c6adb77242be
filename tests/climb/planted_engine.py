"""An engine that a command can open by name in a process of its own: a factor in one stage of the BF16 emulation."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from parity.errors import UsageError
from parity.runner import RunnerInfo, Schedule
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.recipes.runner import RecipeRunner


class Scaled(RecipeRunner):
    """The down projection of layer 1 comes out a tenth too large, or by another factor. idle: changes nothing, though
    the engine says that it can be turned; so does it of `order` 99, which there is not. mode: has a meaning only beside
    a factor of 1.1."""

    factor = 1.1

    def describe(self) -> RunnerInfo:
        return replace(super().describe(), knobs={"factor": ("1.0",), "idle": ("1",), "order": ("99",)},
                       knob_needs={"mode": ("factor", "1.1")})  # fmt: skip

    def flags(self) -> dict[str, Any]:
        return {**super().flags(), "factor": self.factor}

    def compute(self, stage: str, layer: int | None, *args: Any) -> torch.Tensor:
        out = super().compute(stage, layer, *args)
        return (out.float() * self.factor).to(out.dtype) if (layer, stage) == (1, "moe.down") else out


class Dying(RecipeRunner):
    """A healthy engine that crashes where a prompt is fed in chunks."""

    def forward(self, requests: Any, *, schedule: Any = Schedule(), **more: Any) -> Any:
        if schedule.chunk is not None:
            os._exit(9)
        return super().forward(requests, schedule=schedule, **more)


def open_dying(model: str) -> Dying:
    return Dying(read_checkpoint(Path(model)), order=3)


def open_scaled(model: str, *, order: int = 3, factor: float = 1.1, idle: int = 0, mode: str = "") -> Scaled:
    """The faulty engine on the model folder. Raises UsageError for a mode beside another factor than 1.1."""
    if mode and factor != 1.1:
        raise UsageError(
            place="planted engine", expected="a mode beside factor 1.1", found=f"factor {factor}",
            next_step="Leave one of them out.",
        )  # fmt: skip
    engine = Scaled(read_checkpoint(Path(model)), order=order)
    engine.factor = factor
    return engine
