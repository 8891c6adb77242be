"""What does a stage map say? Records: sources of tensors, the stages in them, and what cannot be observed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from parity.errors import ConfigError
from parity.importers.layout import spells_axes
from parity.records import site_name
from parity.stages import Family, family, term

LAYER = "{layer}"


@dataclass(frozen=True)
class Part:
    """One stage in a tensor, and its axes as they lie there, slowest first; see parity.importers.layout."""

    stage: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """One source of an engine: a name with `{layer}` and `*`, what of it, and the stages that it holds.

    take: `output`, `input`, or a word of the engine's own. results: which tensors of a tuple; several are added, in
    dtype `rounds` when that is given. occurrence: which of the tensors of that name in a step; None: the layer's
    number. parts: several lie one after the other on the last axis. layers: (first, stop) as a slice of all layers.
    """

    name: str
    parts: tuple[Part, ...]
    take: str = "output"
    results: tuple[int, ...] = (0,)
    rounds: str | None = None
    occurrence: int | None = 0
    layers: tuple[int | None, int | None] = (None, None)

    @property
    def per_layer(self) -> bool:
        """True for a source inside the layers."""
        return LAYER in self.name or self.occurrence is None

    def at(self, layer: int | None) -> str:
        """How it is spelled out in messages."""
        name = self.name if layer is None else self.name.replace(LAYER, str(layer))
        number = self.occurrence if self.occurrence is not None else layer
        return f"{name} {self.take}" + (f" (occurrence {number})" if number else "")


@dataclass(frozen=True)
class StageMap:
    """Where an engine's stages are. tensors: its sources; unobservable: the other stages, each with the reason."""

    engine: str
    family: str
    tensors: tuple[Tensor, ...]
    unobservable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_map(self)

    @property
    def label(self) -> str:
        return f"stage map {self.engine}-{self.family}"

    @property
    def graph(self) -> Family:
        """The family's stages."""
        return family(self.family)

    def sources(self, layers: int) -> Iterator[tuple[int | None, Tensor]]:
        """Every source in a model of that many layers, with its layer; None outside the layers."""
        for tensor in self.tensors:
            if not tensor.per_layer:
                yield None, tensor
                continue
            for layer in range(layers)[slice(*tensor.layers)]:
                yield layer, tensor

    def sites(self, layers: int) -> tuple[tuple[int | None, str], ...]:
        """The sites that can be observed, in order of computation: what a run declares."""
        held = {(layer, part.stage) for layer, tensor in self.sources(layers) for part in tensor.parts}
        return tuple((at, stage.name) for at, stage in self.graph.sites(layers) if (at, stage.name) in held)


def check_map(stage_map: StageMap) -> None:
    """Raise ConfigError unless every stage of the family has one source in every layer, or a reason for having none."""
    graph, place = stage_map.graph, stage_map.label
    names = {stage.name: stage for _, stage in graph.sites(1)}
    inside = {stage.name for stage in graph.layer}
    for tensor in stage_map.tensors:
        for part in tensor.parts:
            if part.stage not in names:
                raise _wrong(f"{place}, {tensor.name}", f"a stage of family {graph.name}", repr(part.stage))
            if (part.stage in inside) != tensor.per_layer:
                expected = "{layer} in the name of a stage inside the layers, or occurrence = 'layer', and nowhere else"
                raise _wrong(f"{place}, {tensor.name}", expected, part.stage)
            if not spells_axes(part.axes, term(part.stage)):
                wanted = f"the axes of {part.stage}, {list(term(part.stage).axes)}, each once"
                raise _wrong(f"{place}, {tensor.name}, axes", wanted, repr(list(part.axes)))
        if not tensor.parts or not tensor.results:
            raise _wrong(f"{place}, {tensor.name}", "at least one stage and one result", "none")
    for stage, reason in stage_map.unobservable.items():
        if stage not in names or not (isinstance(reason, str) and reason.strip()):
            raise _wrong(f"{place}, unobservable", "stages of the family, each with a reason", f"{stage}: {reason!r}")
    for layers in (1, 2, 5):  # a range that fits one depth may leave a hole, or overlap, at another
        held = Counter((at, part.stage) for at, tensor in stage_map.sources(layers) for part in tensor.parts)
        for at, stage in graph.sites(layers):
            count, reason = held[at, stage.name], stage_map.unobservable.get(stage.name)
            if count != (reason is None):
                expected = "one source, or a reason under [unobservable]"
                found = f"{count} sources" + (" and a reason" if reason is not None else "")
                raise _wrong(f"{place}, {site_name(at, stage.name)} of {layers} layers", expected, found)


def _wrong(place: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        place=place, expected=expected, found=found, next_step="Correct the map; docs/engines.md says what it holds."
    )
