"""What do all oracles share as runners? A checkpoint that they were opened on, and that they can tell about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from parity.audit.record import WeightDistance
from parity.audit.tensors import StoredTensor
from parity.errors import RunnerError
from parity.records import Recipe
from parity.runner import RunnerInfo
from parity.trace import lineage_of
from parity_oracles.checkpoint import Checkpoint, Hyper
from parity_oracles.checkpoint.distances import weight_distances
from parity_oracles.checkpoint.stored import stored_tensors
from parity_oracles.feeding import Feed, Feeder, feeds
from parity_oracles.recipes.formats import round_q8_0

__all__ = ["Feed", "Oracle", "feeds"]


class Oracle(Feeder):
    """A runner on a checkpoint that feeds its requests one after the other; see Feeder."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, hyper: Hyper) -> None:
        lineage = lineage_of(checkpoint.folder)
        super().__init__(str(checkpoint.folder), hyper, recipe, lineage, decoder=checkpoint.decoder)
        self.checkpoint = checkpoint

    def describe(self) -> RunnerInfo:
        """Family, effective hyper-parameters, recipe, lineage, stages and abilities."""
        info = super().describe()
        return replace(info, can=info.can | {"stored"})

    def stored(self, *, held: str = "") -> tuple[StoredTensor, ...]:
        """Every tensor of the checkpoint with the operations that must read it; see parity.audit.

        held: `q8_0` where the engine holds its matrices so: their values on that grid are a form of theirs then.
        """
        return stored_tensors(self.checkpoint, rounded={"q8_0": round_q8_0} if held == "q8_0" else {})

    def distances(self, reference: str) -> tuple[tuple[WeightDistance, ...], tuple[tuple[str, str], ...]]:
        """How far each weight lies from the one in model folder `reference`, and what could not be compared."""
        return weight_distances(self.checkpoint, reference)

    def replay(
        self, stage: str, layer: int | None, inputs: Mapping[str, torch.Tensor], *, positions: torch.Tensor, recipe: str
    ) -> torch.Tensor:
        """Compute one stage alone; see parity.runner.Replayer. Raises RunnerError where the oracle cannot."""
        raise RunnerError(
            place=f"runner {self.name}",
            expected="an ability among " + ", ".join(sorted(self.can)),
            found="replay",
            next_step="Replay with an oracle that has a recipe for this family.",
        )
