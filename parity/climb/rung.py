"""What is a rung? One experiment: what it asks, needs, costs and can rule out, its control, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from parity.errors import UsageError
from parity.reading import read_record
from parity.records import Finding, Summary

if TYPE_CHECKING:
    from parity.climb.bench import Bench
    from parity.climb.case import Case


class Status(StrEnum):
    """What came of a rung. Closed; a rung that could not run is NOT_RUN with its reason, and never passed.

    FOUND: what it looks for is there. RULED_OUT: it is not. INCONCLUSIVE: it ran and cannot tell.
    """

    FOUND = "found"
    RULED_OUT = "ruled_out"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "NOT_RUN"


@dataclass(frozen=True)
class RungResult:
    """What one rung found, as `rungs/NN-name.json` holds it; docs/investigation.md lists the fields.

    sentence: the result for a person; of a rung that did not run, the reason. findings: sites or causes that it names.
    numbers: measured; control: the same of the arm that must come out healthy, with what that arm is under `arm`.
    evidence: what a report draws. artifacts: files beside it, by name. seconds: wall clock. forwards, generations:
    calls of the engine under test. hypothesis: its id in the ledger.
    """

    number: int
    name: str
    question: str
    status: Status
    sentence: str
    findings: tuple[Finding, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    rules_out: tuple[str, ...] = ()
    leaves_open: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    seconds: float = 0.0
    forwards: int = 0
    generations: int = 0
    hypothesis: str = ""

    def __post_init__(self) -> None:
        wrong = None
        if not self.sentence:
            wrong = "a sentence, of a rung that did not run the reason", "none"
        elif self.status in (Status.FOUND, Status.RULED_OUT) and not self.numbers:
            wrong = "the numbers that say so", "none"
        elif self.status is Status.NOT_RUN and (self.findings or self.rules_out):
            wrong = "nothing found and nothing ruled out by a rung that did not run", f"{len(self.findings)} findings"
        if wrong is not None:
            raise UsageError(
                place=f"rung {self.number} {self.name}, {self.status.value}",
                expected=wrong[0],
                found=wrong[1],
                next_step="Report as inconclusive or NOT_RUN what was not measured.",
            )

    @property
    def ran(self) -> bool:
        return self.status is not Status.NOT_RUN

    def summary(self, name: str) -> Summary | None:
        """A summary that it keeps as evidence under `name`; None where it keeps none."""
        stored = self.evidence.get(name)
        return None if stored is None else read_record(Summary, stored, place=f"rung {self.number}, {name}")


@dataclass(frozen=True)
class Cost:
    """What a rung will take. forwards: of the engine, counted in forward passes of the whole prompt; steps: its decode
    steps; lab_seconds: of the oracle, the emulation and the comparisons; bytes: held or written at once."""

    forwards: float = 0.0
    steps: int = 0
    lab_seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Rung:
    """One experiment of the ladder.

    claim, prediction: entered into the ledger before it runs; the result supports or refutes the claim.
    needs: in words; obstacle: why it cannot run on this bench, empty when it can. rules_out: what it can rule out.
    control: what its control arm is. rests_on: numbers of rungs whose results it builds on.
    """

    number: int
    name: str
    question: str
    claim: str
    prediction: str
    needs: tuple[str, ...]
    rules_out: tuple[str, ...]
    control: str
    obstacle: Callable[[Bench], str]
    cost: Callable[[Case], Cost]
    run: Callable[[Bench], RungResult]
    rests_on: tuple[int, ...] = ()

    @property
    def file(self) -> str:
        """Name of its result below `rungs/`."""
        return f"{self.number:02d}-{self.name}.json"

    def result(self, status: Status, sentence: str, **more: Any) -> RungResult:
        """A result of this rung; what it can rule out is ruled out where nothing else is said."""
        if status is Status.RULED_OUT:
            more.setdefault("rules_out", self.rules_out)
        if status in (Status.INCONCLUSIVE, Status.NOT_RUN):
            more.setdefault("leaves_open", self.rules_out)
        return RungResult(self.number, self.name, self.question, status, sentence, **more)
