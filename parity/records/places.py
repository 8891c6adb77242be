"""Where in a run? A site, the part of its tensor, and how both are written."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Slice:
    """Part of a stage's tensor. None on an axis means all of it; an empty tuple is not allowed."""

    heads: tuple[int, ...] | None = None
    experts: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    columns: tuple[int, int] | None = None
    positions: tuple[int, int] | None = None


@dataclass(frozen=True)
class Site:
    """Where: layers (absolute; empty for stages outside the layers), stage, and the slice of its tensor."""

    layers: tuple[int, ...]
    stage: str
    slice: Slice = field(default_factory=Slice)


def site_name(layer: int | None, stage: str) -> str:
    """`L02.moe.gate`, or the bare stage outside the layers."""
    return stage if layer is None else f"L{layer:02d}.{stage}"


def split_site(name: str) -> tuple[int | None, str]:
    """The layer and stage that `site_name` made a name of: `L02.moe.gate` is (2, "moe.gate")."""
    layer, _, rest = name.partition(".")
    return (int(layer[1:]), rest) if layer[:1] == "L" and layer[1:].isdigit() else (None, name)
