"""An engine that a command can open by name in a process of its own: a factor in one stage of the BF16 emulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.recipes.runner import RecipeRunner


class Scaled(RecipeRunner):
    """The down projection of layer 1 comes out a tenth too large."""

    def compute(self, stage: str, layer: int | None, *args: Any) -> torch.Tensor:
        out = super().compute(stage, layer, *args)
        return (out.float() * 1.1).to(out.dtype) if (layer, stage) == (1, "moe.down") else out


def open_scaled(model: str, *, order: int = 3) -> Scaled:
    """The faulty engine on the model folder."""
    return Scaled(read_checkpoint(Path(model)), order=order)
