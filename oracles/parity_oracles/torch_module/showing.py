"""How does a module show a tensor that is no module's input or output? By a word, which costs nothing unwatched."""

from __future__ import annotations

from typing import Any

import torch

SHOWN = "parity_show"


def show(module: Any, word: str, x: torch.Tensor) -> torch.Tensor:
    """Show `x` under `word` of `module`; returns the tensor to go on with, `x` itself unless a graft replaced it."""
    shown = getattr(module, SHOWN, None)
    return x if shown is None else shown(word, x)
