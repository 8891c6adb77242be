"""Which noise floor judges a model? A stored one of its recipe and weights, else one calibrated here once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parity.errors import ParityError
from parity.floor import Floor
from parity.ladder.recipe_floor import calibrate_recipe
from parity.runner import Request, RunnerInfo
from parity.zoo.prompts import PromptText


@dataclass(frozen=True)
class FoundFloor:
    """A floor and the file that holds it."""

    path: Path
    floor: Floor

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def find_floor(info: RunnerInfo, folders: Sequence[Path]) -> FoundFloor | None:
    """The floor for that recipe and checkpoint in the first of `folders` that has one; unreadable ones are skipped."""
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            floor = Floor.load(path)
        except ParityError:
            continue
        if floor.recipe.name == info.recipe.name and floor.lineage == info.lineage:
            return FoundFloor(path, floor)
    return None


def make_floor_for(
    info: RunnerInfo,
    model: str,
    pool: Sequence[PromptText],
    cache: Path,
    *,
    on_step: Callable[[str, int, int], None] | None = None,
) -> FoundFloor:
    """Calibrate on every second prompt of the pool, as many as `calibrate_recipe` takes, and keep the floor in `cache`.

    The longest prompts among them come first: what lies beyond the longest has no floor.
    """
    longest_first = sorted(pool, key=lambda prompt: (-len(prompt.ids), prompt.name))
    requests = [Request(prompt.name, prompt.ids) for prompt in longest_first[::2]]
    floor = calibrate_recipe(info.recipe.name, model, requests, on_step=on_step)
    path = cache / f"{info.recipe.name}-{hashlib.sha256(repr(info.lineage).encode()).hexdigest()[:12]}.json"
    floor.save(path)
    return FoundFloor(path, floor)
