"""How are a derived floor's scores noted, and how is the floor widened by them? By tensor, kind of slice and metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parity.floor import DerivedFloor
from parity.records import site_name

Scores = dict[str, NDArray[np.float64]]

Limits = Mapping[str, Mapping[str, float]]
"""By tensor name, or `L00.moe.gate prefill` of a trace, then by `row rel_l2`, `tensor slope`, ...: how many derived
floors are allowed; 1 where nothing is said."""


@dataclass(frozen=True)
class NotingFloor(DerivedFloor):
    """A derived floor that notes the largest score of every kind and metric.

    tensor: whose; empty for a trace's sites, which say it themselves. sites: those of a trace that are noted.
    """

    tensor: str = ""
    sites: frozenset[str] = frozenset()
    seen: dict[str, dict[str, float]] = field(default_factory=dict, compare=False)

    def adjusted(self, found: Scores, kind: str, where: Mapping[str, Any]) -> Scores:
        if not self.tensor and site_name(where.get("layer"), where.get("stage", "")) not in self.sites:
            return found
        limits = self.seen.setdefault(key_of(self.tensor, where), {})
        for metric, scores in found.items():
            known = scores[~np.isnan(scores)]
            worst = float(known.max()) if len(known) else 0.0
            limits[f"{kind} {metric}"] = max(limits.get(f"{kind} {metric}", 0.0), worst)
        return found


@dataclass(frozen=True)
class WidenedFloor(DerivedFloor):
    """A derived floor whose gates are as much wider as `limits` says; scores come out in these gates."""

    by_own_size: ClassVar[bool] = False
    tensor: str = ""
    limits: Limits = field(default_factory=dict)

    def adjusted(self, found: Scores, kind: str, where: Mapping[str, Any]) -> Scores:
        limits = self.limits.get(key_of(self.tensor, where), {})
        return {metric: scores / max(limits.get(f"{kind} {metric}", 1.0), 1.0) for metric, scores in found.items()}


def key_of(tensor: str, where: Mapping[str, Any]) -> str:
    """What a limit is kept under."""
    return tensor or f"{site_name(where.get('layer'), where.get('stage', ''))} {where.get('phase', '')}"
