"""What did one check find? Held, broken, not run or unjudged, with what was turned and the proof that it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from parity.errors import UsageError
from parity.records import Site, site_name


class Outcome(StrEnum):
    """What a check concluded. Closed: there is no other outcome, and none of them means "skipped"."""

    HELD = "held"
    BROKEN = "broken"
    NOT_RUN = "not_run"
    UNJUDGED = "unjudged"


@dataclass(frozen=True)
class Invariance:
    """One invariance of one runner.

    name: the check's, as `parity invariants --check` takes it. turned: what was turned, in words.
    evidence: what shows that it was turned, read off the runs themselves; a check without any cannot be held.
    basis: what it was judged by: `promised bits`, `bound ...` with its source, `floor`, or nothing.
    site: where it breaks first, in order of computation, and the slice that differs there; `layers` are all layers in
        which that stage breaks by itself, where that could be told.
    numbers: how much was compared and how far it differs. sentence: all of it for a person.
    """

    name: str
    outcome: Outcome
    turned: str
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    basis: str = ""
    site: Site | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = None
        if not self.sentence:
            wrong = "a sentence", "none"
        elif self.outcome in (Outcome.HELD, Outcome.BROKEN) and not self.evidence:
            wrong = "evidence that something was turned", "none"
        elif self.outcome is Outcome.BROKEN and self.site is None:
            wrong = "a site where it breaks", "none"
        elif self.outcome is Outcome.HELD and self.site is not None:
            wrong = "no site where nothing breaks", str(self.site)
        if wrong is not None:
            raise UsageError(
                place=f"invariance {self.name}, {self.outcome.value}",
                expected=wrong[0],
                found=wrong[1],
                next_step="A knob that was not shown to be turned proves nothing: report the check as not run.",
            )

    @property
    def where(self) -> str:
        """`L00.moe.gate`, the first place that breaks; empty when nothing does."""
        if self.site is None:
            return ""
        return site_name(self.site.layers[0] if self.site.layers else None, self.site.stage)


def not_run(name: str, turned: str, why: str) -> Invariance:
    """A check that this runner cannot do, or that had nothing to look at."""
    return Invariance(name, Outcome.NOT_RUN, turned, why)
