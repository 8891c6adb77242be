"""An engine that is quick: the BF16 emulation of the random model in another order, with what a test plants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from parity.runner import Request
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.recipes.runner import RecipeRunner

Edit = Callable[[torch.Tensor], torch.Tensor]


class Planted(RecipeRunner):
    """A healthy engine but for `edits`: by (layer, stage), what becomes of that stage's tensor."""

    def __init__(self, model: Path, edits: dict[tuple[int | None, str], Edit] | None = None) -> None:
        super().__init__(read_checkpoint(model), order=3)
        self.edits = edits or {}

    def compute(self, stage: str, layer: int | None, *args: Any) -> torch.Tensor:
        out = super().compute(stage, layer, *args)
        edit = self.edits.get((layer, stage))
        return out if edit is None else edit(out)


def request_of(seed: int, length: int) -> Request:
    ids = torch.randint(0, 80, (length,), generator=torch.Generator().manual_seed(seed))
    return Request(f"random-{seed}", tuple(ids.tolist()))


def scale_second_head(out: torch.Tensor) -> torch.Tensor:
    """The second query head 10 % too large."""
    out = out.clone()
    out[:, 1] *= 1.1
    return out


FAULTY: dict[tuple[int | None, str], Edit] = {(1, "attn.context"): scale_second_head}
