"""Which sites may a finding name for this truth? The truth's own, or where it is first seen if that one is not."""

from __future__ import annotations

from collections.abc import Collection

from parity.records import Site
from parity.stages import Family

Place = tuple[int | None, str]


def accepted_places(truth: Site, *, graph: Family, layers: int, captured: Collection[str]) -> set[Place]:
    """Every (layer, stage) that names `truth` rightly, of a model of that many layers.

    captured: stages that the engine shows. Where the truth's stage is not among them, the first captured stage that
    reads it, through others that are not captured, stands for it; a stage outside the layers has layer None.
    """
    everything = [(layer, stage) for layer, stage in graph.sites(layers)]
    own = [
        (layer, stage.name)
        for layer, stage in everything
        if stage.name == truth.stage and (layer is None or not truth.layers or layer in truth.layers)
    ]
    if truth.stage in captured:
        return set(own)
    return {place for site in own if (place := _first_seen(site, graph, layers, captured)) is not None}


def _first_seen(site: Place, graph: Family, layers: int, captured: Collection[str]) -> Place | None:
    touched = {site}
    for layer, stage in graph.sites(layers):
        reads = {graph.resolve(layer, name, layers=layers) for name in (*stage.inputs, *stage.state)}
        if reads & touched:
            if stage.name in captured:
                return layer, stage.name
            touched.add((layer, stage.name))
    return None
