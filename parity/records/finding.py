"""What did an investigation conclude?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.display import Displayed
from parity.records.places import Slice
from parity.records.verdicts import multiple


@dataclass(frozen=True)
class Finding(Displayed):
    """What an investigation concluded: a site with its cause, evidence and proof.

    verdict: `fault`, `clean`, `refused` or `unresolved`. rung: which experiment decided.
    cause: the cause class; sentence: the same for a person. over_floor: the site's worst slice over its gate.
    evidence: numbers behind it, by name. not_excluded: what this experiment cannot rule out.
    """

    verdict: str
    rung: str
    layers: tuple[int, ...] = ()
    stage: str | None = None
    slice: Slice = field(default_factory=Slice)
    cause: str | None = None
    sentence: str = ""
    over_floor: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    not_excluded: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layers = f" of layers {', '.join(map(str, self.layers))}" if self.layers else ""
        where = f", {self.stage}{layers}" if self.stage else ""
        why = f": {self.cause}" if self.cause else ""
        over = "" if self.over_floor is None else f", {multiple(self.over_floor)} of its gate"
        proved = ", proved" if self.proof.get("proved") else ""
        return f"Finding({self.verdict}{where}{why}{over}{proved})"
