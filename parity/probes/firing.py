"""Did every declared probe fire as often as it should? Counts firings step by step."""

from __future__ import annotations

from collections import Counter

from parity.errors import ProbeError
from parity.records import site_name

Place = tuple[int | None, str]
SHOWN = 8


class Firings:
    """Each declared site must fire once a step; a site that fires undeclared is as wrong as one that is silent."""

    def __init__(self, declared: tuple[Place, ...]) -> None:
        self.declared = frozenset(declared)
        self.steps = 0
        self._order = tuple(dict.fromkeys(declared))
        self._now: Counter[Place] = Counter()
        self._missing: dict[str, str] = {}
        self._doubled: dict[str, str] = {}
        self._undeclared: dict[str, str] = {}
        self._label = ""

    def start_step(self, label: str) -> None:
        """A step begins; the one before it is over."""
        self.end_step()
        self._label = label
        self.steps += 1

    def fired(self, layer: int | None, stage: str) -> None:
        self._now[layer, stage] += 1

    def end_step(self) -> None:
        """Hold the step that is over against what was declared."""
        if not self._label:
            return
        for place in self._order:
            if self._now[place] == 0:
                self._missing.setdefault(site_name(*place), self._label)
        for place, count in self._now.items():
            if place not in self.declared:
                self._undeclared.setdefault(site_name(*place), self._label)
            elif count > 1:
                self._doubled.setdefault(site_name(*place), f"{self._label}, {count} times")
        self._now.clear()
        self._label = ""

    def check(self) -> None:
        """Raise ProbeError naming every site that was silent, fired twice, or was not declared."""
        self.end_step()
        problems = [
            _list("silent", self._missing),
            _list("fired more than once", self._doubled),
            _list("fired without being declared", self._undeclared),
        ]
        if not self.steps:
            problems = ["no step was started"]
        found = "; ".join(problem for problem in problems if problem)
        if found:
            raise ProbeError(
                place="probes of this run",
                expected=f"each of {len(self.declared)} declared sites to fire once in each of {self.steps} steps",
                found=found,
                next_step="The forward pass and what it declares disagree (or a hook was lost under compilation): "
                "mend one of them; this trace must not be compared.",
            )


def _list(what: str, places: dict[str, str]) -> str:
    if not places:
        return ""
    shown = [f"{name} ({where})" for name, where in list(places.items())[:SHOWN]]
    more = len(places) - len(shown)
    return f"{what}: " + ", ".join(shown) + (f" and {more} more" if more > 0 else "")
