"""What does a comparison come to: an exit code, the first divergence, one sentence, and one JSON object?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity.compare.divergence import first_divergence
from parity.compare.files import MODE
from parity.errors import ConfigError
from parity.floor import DerivedFloor, NoiseFloor
from parity.floor.derived import ASKED, LEVEL
from parity.records import Comparison, Summary, Verdict, as_json
from parity.stages import family

NAMES, COMPUTATION = "natural order of names", "order of computation"


@dataclass(frozen=True)
class Outcome:
    """A summary with what it was judged by. family: of the traces that were compared, None for plain files."""

    summary: Summary
    floor: NoiseFloor | None = None
    family: str | None = None

    @property
    def exit_code(self) -> int:
        """0: something was compared and all of it cleared; 1: a divergence; 2: neither can be said."""
        return 0 if self.summary.healthy else 1 if self.summary.diverged else 2

    @property
    def floor_label(self) -> str | None:
        """`derived:bfloat16`, or `calibrated:RECIPE` with the number of clean runs; None without a floor."""
        if self.floor is None or isinstance(self.floor, DerivedFloor):
            return None if self.floor is None else self.floor.label
        return f"calibrated:{self.floor.recipe.name} ({len(self.floor.runs)} clean runs)"

    @property
    def floor_words(self) -> str:
        """The floor in words, with its false-alarm level where it has one by derivation."""
        if isinstance(self.floor, DerivedFloor):
            times = self.floor.model.roundings
            many = "one rounding" if times == 1 else f"{times} roundings"
            return (
                f"{self.floor.label}: an analytic bound, derived, not calibrated; {many} to nearest a side and "
                f"accumulation in fp32 or wider; false alarm below {LEVEL:g} a tensor (docs/derived-floors.md)"
            )
        return self.floor_label or "none: measured and ranked, not judged"

    @property
    def order(self) -> str:
        """Order of the comparisons, and so of what is called first."""
        plain = any(c.mode == MODE for c in self.summary.comparisons) or self.family is None
        return NAMES if plain else COMPUTATION

    @property
    def first(self) -> Comparison | None:
        """The first divergence in that order; where nothing is judged, the first pair that was not cleared."""
        if self.family is not None and self.summary.diverged:
            try:
                return first_divergence(self.summary, family(self.family))
            except ConfigError:
                pass  # a family without a graph: the comparisons' own order
        records = self.summary.comparisons
        faulty = next((c for c in records if c.verdict.faulty), None)
        return faulty or next((c for c in records if not c.verdict.healthy), None)

    @property
    def power(self) -> dict[str, Any] | None:
        """What the bound can see: None without a derived floor or without a tensor judged by it.

        scale_seen: the smallest scale error that the *weakest* tensor's gate shows, and which it is. blind_tensors,
        blind_rows: those that could hide a scale error of 1 %; they are no evidence against one.
        """
        if not isinstance(self.floor, DerivedFloor):
            return None
        seen = [c for c in self.summary.comparisons if "scale_seen" in c.whole and c.verdict is not Verdict.MATCH]
        if not seen:
            return None
        weakest = max(seen, key=lambda c: c.whole["scale_seen"])
        return {
            "asked": ASKED,
            "scale_seen": weakest.whole["scale_seen"],
            "weakest": weakest.name,
            "tensors": len(seen),
            "blind_tensors": [c.name for c in seen if c.whole["scale_seen"] > ASKED],
            "rows": sum(c.rows for c in seen),
            "blind_rows": int(sum(c.whole["rows_blind"] for c in seen)),
        }

    @property
    def power_words(self) -> str:
        """The power in one line; empty without one."""
        power = self.power
        if power is None:
            return ""
        blind = len(power["blind_tensors"])
        return (
            f"the weakest gate of a whole tensor sees a scale error from {100 * power['scale_seen']:.3g} %; "
            f"{blind} of {power['tensors']} tensors and {power['blind_rows']} of {power['rows']} rows are too small "
            f"to show {100 * ASKED:g} %: nothing is said about that there"
        )

    @property
    def next_step(self) -> str:
        """One sentence on what to do."""
        counts = self.summary.verdicts
        if not self.summary.comparisons:
            return "Nothing was compared, which is no success: neither side has a tensor."
        if self.summary.diverged:
            assert self.first is not None
            if len(counts) <= 2 and set(counts) <= {"MISSING_IN_SUT", "MISSING_IN_ORACLE"}:
                return "No name is on both sides: rename the tensors of one side, or capture the same sites."
            return "Look at the first divergence before the largest: what comes after it may have inherited its error."
        if self.summary.healthy:
            if set(counts) == {"MATCH"}:
                return "Every bit is equal; nothing to do."
            return "All differences are within the floor; nothing to do."
        if Verdict.NO_FLOOR.value in counts and self.floor is None:
            return (
                "No floor, no verdict: add --floor derived:DTYPE with the dtype that both sides were rounded to "
                "(derived:bfloat16, ...), or for traces --floor FILE."
            )
        left = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if not Verdict(verdict).healthy)
        return f"Not everything could be judged ({left}): see the reasons, and compare these another way."

    def as_json(self) -> dict[str, Any]:
        """Plain values: floor, verdicts, first_divergence, power, comparisons in their order."""
        first = self.first
        return {
            "floor": self.floor_label,
            "floor_is": None if self.floor is None else "derived" if self.power_possible else "calibrated",
            "floor_words": self.floor_words,
            "verdicts": self.summary.verdicts,
            "healthy": self.summary.healthy,
            "exit_code": self.exit_code,
            "first_divergence": None
            if first is None
            else {
                "name": first.name,
                "verdict": first.verdict.value,
                "judged": first.verdict.faulty,
                "where": first.worst[0].where if first.worst else None,
                "over_floor": as_json(first.over_floor),
                "reason": first.reason,
                "in_order_of": self.order,
            },
            "power": as_json(self.power),
            "unobservable": dict(self.summary.unobservable),
            "notes": list(self.summary.notes),
            "next_step": self.next_step,
            "comparisons": as_json(self.summary.comparisons),
        }

    @property
    def power_possible(self) -> bool:
        """True for a derived floor: its power follows from its gates."""
        return isinstance(self.floor, DerivedFloor)
