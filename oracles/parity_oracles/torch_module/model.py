"""What must be known of a module to run it? How it is fed, what its stages are, and which model it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from parity.errors import UsageError
from parity.records import Lineage, Recipe
from parity_oracles.checkpoint import TextDecoder
from parity_oracles.stagemap import StageMap
from parity_oracles.torch_module.instrument import Rewrite

Feed = Callable[[nn.Module, torch.Tensor, torch.Tensor, Any, int], torch.Tensor]
NEEDED = ("layers", "vocab", "max_positions", "hidden")


def feed_ids(module: nn.Module, ids: torch.Tensor, positions: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
    """The default feed: `module(ids)` gives the logits of all rows; no positions, no cache."""
    out = module(ids)
    return out if isinstance(out, torch.Tensor) else out.logits


@dataclass(frozen=True)
class TorchModel:
    """A module, uncompiled and in evaluation mode, and what the lab has to know of it.

    family: a stage graph of parity/stages.py. hyper: effective hyper-parameters by the names in `NEEDED`, and those
    that give the stage map its sizes (`heads`, `kv_heads`, `head_dim`, `expert_width`, `experts`, `top_k`).
    feed(module, ids [1, T], positions [1, T], cache, keep): logits [1, T, V]; keep: rows to compute logits of, the last
    ones, 0 for all. new_cache(tokens): an empty cache; None where there is none, and then a decode step feeds all ids
    from the start and shows its own rows. rewrites: by module name, see parity_oracles.torch_module.instrument.
    lineage: of the weights, None for their hash. decoder: ids to text.
    """

    module: nn.Module
    family: str
    hyper: Mapping[str, Any]
    stage_map: StageMap
    feed: Feed = feed_ids
    new_cache: Callable[[int], Any] | None = None
    rewrites: Mapping[str, Rewrite] = field(default_factory=dict)
    recipe: Recipe | None = None
    lineage: Lineage | None = None
    decoder: TextDecoder | None = None
    name: str = "module"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED if not isinstance(self.hyper.get(name), int)]
        if missing or self.family != self.stage_map.family:
            raise UsageError(
                place=f"torch module {self.name}",
                expected=f"hyper-parameters {', '.join(NEEDED)}, and a stage map of family {self.family}",
                found=f"without {', '.join(missing) or 'none'}; a map of family {self.stage_map.family}",
                next_step="Give what the module computes with; docs/engines.md has an example.",
            )
        if hasattr(self.module, "_orig_mod"):
            raise UsageError(
                place=f"torch module {self.name}",
                expected="the module before it was compiled",
                found=type(self.module).__name__,
                next_step="Hand over the module and say Compilation(...): probes must be there before compilation.",
            )

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))


@dataclass(frozen=True)
class GivenHyper:
    """Hyper-parameters as a caller gave them, in the form that oracles ask for."""

    given: Mapping[str, Any]
    family: str

    @property
    def layers(self) -> int:
        return int(self.given["layers"])

    @property
    def vocab(self) -> int:
        return int(self.given["vocab"])

    @property
    def max_positions(self) -> int:
        return int(self.given["max_positions"])

    def implied(self) -> dict[str, Any]:
        return {"family": self.family, **self.given}
