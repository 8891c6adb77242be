"""Is every declared source in the engine, once, and is no tensor taken twice? Held before anything is run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch

from parity.errors import ProbeError
from parity_oracles.stagemap.deliver import deliver
from parity_oracles.stagemap.record import LAYER, StageMap, Tensor

SHOWN = 8


@dataclass(frozen=True)
class Source:
    """A source that was found: the engine's own name of it, and the layer it is in."""

    name: str
    layer: int | None
    tensor: Tensor

    @property
    def occurrence(self) -> int:
        """Which of the tensors of that name in a step."""
        return self.tensor.occurrence if self.tensor.occurrence is not None else self.layer or 0

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(part.stage for part in self.tensor.parts)

    def deliver(self, value: Any, sizes: Mapping[str, int]) -> list[tuple[str, torch.Tensor]]:
        """(stage, tensor in the stage's own axes) of what the engine gave; see parity_oracles.stagemap.deliver."""
        return deliver(self.tensor, value, sizes, place=f"{self.name} {self.tensor.take}")


@dataclass(frozen=True)
class Found:
    """A map held against an engine: its sources by the engine's own names."""

    map: StageMap
    layers: int
    sources: tuple[Source, ...]

    def at(self, name: str, *, take: str | None = None, occurrence: int | None = None) -> tuple[Source, ...]:
        """The sources of a name; of all that is taken of it and all occurrences, unless these are given."""
        return tuple(
            source
            for source in self.sources
            if source.name == name
            and take in (None, source.tensor.take)
            and occurrence in (None, source.occurrence)
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The engine's own names that are to be watched, each once."""
        return tuple(dict.fromkeys(source.name for source in self.sources))

    def check_arrived(self, arrived: Iterable[Source]) -> None:
        """Raise ProbeError naming the sources that did not arrive in a step, or arrived more than once."""
        seen = list(arrived)
        silent = [s for s in self.sources if seen.count(s) == 0]
        twice = [s for s in self.sources if seen.count(s) > 1]
        if silent or twice:
            found = [f"{word}: {_list(which)}" for word, which in (("silent", silent), ("twice", twice)) if which]
            raise _wrong(self.map, f"each of {len(self.sources)} sources once in a step", "; ".join(found))


def match_map(stage_map: StageMap, offered: Mapping[str, int | None] | Sequence[str], *, layers: int) -> Found:
    """Find every source of the map among what the engine offers.

    offered: names of modules or nodes, with how many tensors a step shows under each; None, or a plain sequence of
    names, where that is not known before a run. Raises ProbeError naming a source that matches no name, or several, or
    an occurrence that does not exist, and a tensor that two sources take.
    """
    counts: Mapping[str, int | None] = offered if isinstance(offered, Mapping) else dict.fromkeys(offered)
    found, taken = [], {}
    for layer, tensor in stage_map.sources(layers):
        fits = _fitting(tensor, layer, counts)
        if len(fits) != 1:
            what = f"{tensor.at(layer)} for {', '.join(part.stage for part in tensor.parts)}"
            near = get_close_matches(_name_in(tensor, layer).replace("*", ""), counts, n=3, cutoff=0.5)
            like = f"none; the nearest names are {', '.join(near)}" if near else "none"
            named = like if not fits else f"{len(fits)}: {', '.join(fits[:SHOWN])}"
            raise _wrong(stage_map, f"one {what} in the engine", named)
        source = Source(fits[0], layer, tensor)
        count = counts[source.name]
        if count is not None and source.occurrence >= count:
            raise _wrong(stage_map, f"{tensor.at(layer)} in the engine", f"{count} of that name")
        for result in tensor.results:
            key = (source.name, tensor.take, source.occurrence, result)
            if key in taken:
                both = f"{', '.join(taken[key].stages)} and {', '.join(source.stages)}"
                raise _wrong(stage_map, "each tensor taken once", f"{tensor.at(layer)}, result {result}, for {both}")
            taken[key] = source
        found.append(source)
    return Found(stage_map, layers, tuple(found))


def _name_in(tensor: Tensor, layer: int | None) -> str:
    return tensor.name if layer is None else tensor.name.replace(LAYER, str(layer))


def _fitting(tensor: Tensor, layer: int | None, offered: Mapping[str, int | None]) -> list[str]:
    name = _name_in(tensor, layer)
    if "*" not in name:
        return [name] if name in offered else []
    pattern = re.compile(".*".join(map(re.escape, name.split("*"))))
    return [one for one in offered if pattern.fullmatch(one)]


def _list(sources: Sequence[Source]) -> str:
    shown = ", ".join(f"{s.tensor.at(s.layer)} ({', '.join(s.stages)})" for s in sources[:SHOWN])
    return shown + (f" and {len(sources) - SHOWN} more" if len(sources) > SHOWN else "")


def _wrong(stage_map: StageMap, expected: str, found: str) -> ProbeError:
    return ProbeError(
        place=stage_map.label,
        expected=expected,
        found=found,
        next_step="The engine and its map disagree: versions differ, or the map is wrong. Correct the map.",
    )
