"""How well did the lab do? Cases and their outcomes as records for a person and a script, with rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.faults import Problem
from parity.records import Finding, Site
from parity.zoo.cases import Case, NotRun
from parity.zoo.interval import Rate
from parity.zoo.outcome import Outcome
from parity.zoo.score import Score, accuses, below_power, score_finding


@dataclass(frozen=True)
class RunRecord:
    """What every case has. status, error, seconds, forwards, generations: as in Outcome; model: folder; prompt: name
    and window; tokens: its length. said: what each rung came to."""

    name: str
    model: str
    prompt: str
    tokens: int
    status: str
    error: str
    seconds: float
    forwards: int | None
    generations: int | None
    finding: Finding | None
    said: Mapping[str, str]


@dataclass(frozen=True)
class FaultRecord(RunRecord):
    """A planted fault, scored by docs/zoo.md. instance: the seed; truth, also, rung, cause: what was to be named."""

    instance: int
    family: str
    simulated: bool
    below_power: bool
    detected: bool
    localized: bool
    sliced: bool | None
    cause_named: bool
    cause_listed: bool
    proved: bool | None
    truth: Site | None
    also: tuple[Site, ...]
    rung: str | None
    cause: str | None


@dataclass(frozen=True)
class ControlRecord(RunRecord):
    """A difference that is no bug. claim_refuted: of a control with a claim, whether it came out refuted; None: it was
    not tried, or there is no claim."""

    instance: int
    family: str
    blamed: bool
    unresolved: bool
    claim: str | None
    claim_refuted: bool | None


@dataclass(frozen=True)
class CleanRecord(RunRecord):
    """A healthy engine. alarm: something was called wrong; chunk, decode: how it was fed."""

    alarm: bool
    unresolved: bool
    chunk: int | None
    decode: int


@dataclass(frozen=True)
class ZooResult:
    """Everything that a campaign ran, and what it could not. pending: labels of cases that were not run yet."""

    faults: tuple[FaultRecord, ...]
    controls: tuple[ControlRecord, ...]
    clean: tuple[CleanRecord, ...]
    not_run: tuple[NotRun, ...]
    problems: tuple[Problem, ...]
    settings: Mapping[str, Any]
    seconds: float
    pending: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Rates with 95 % intervals; faults below the floor's power are counted apart, simulated ones as well."""
        judged = [one for one in self.faults if not one.below_power]
        below = [one for one in self.faults if one.below_power]
        everything: Sequence[RunRecord] = (*self.faults, *self.controls, *self.clean)
        ended = [one for one in everything if one.status == "done"]
        return {
            **_rates(judged),
            "incidents": _rates([one for one in judged if not one.simulated]),
            "simulated": _rates([one for one in judged if one.simulated]),
            "below_power": {"count": len(below), "detected": sum(one.detected for one in below)},
            "controls_blamed": Rate.among(
                sum(one.blamed for one in self.controls), sum(one.status == "done" for one in self.controls)
            ),
            "false_alarms": Rate.among(
                sum(one.alarm for one in self.clean), sum(one.status == "done" for one in self.clean)
            ),
            "unresolved": {
                "controls": sum(one.unresolved for one in self.controls),
                "clean": sum(one.unresolved for one in self.clean),
            },
            "cases": len(everything),
            "failed": sum(one.status == "failed" for one in everything),
            "timeouts": sum(one.status == "timeout" for one in everything),
            "not_run": len(self.not_run),
            "pending": len(self.pending),
            "problems": len(self.problems),
            "mean_seconds": round(sum(one.seconds for one in ended) / len(ended), 1) if ended else None,
            "mean_forwards": round(sum(one.forwards or 0 for one in ended) / len(ended), 1) if ended else None,
            "seconds": round(self.seconds, 1),
        }

    @property
    def exit_code(self) -> int:
        """2 with unusable files or faults; else 0 when every fault within power was detected, no control blamed, no
        clean run an alarm, and every case was run and ended; else 1."""
        if self.problems:
            return 2
        missed = any(not one.detected and not one.below_power for one in self.faults)
        accused = any(one.blamed for one in self.controls) or any(one.alarm for one in self.clean)
        unended = any(one.status != "done" for one in (*self.controls, *self.clean))
        return 1 if missed or accused or unended or self.pending else 0

    def as_dict(self) -> dict[str, Any]:
        """What `parity zoo run --json` prints."""
        return {
            "faults": self.faults,
            "controls": self.controls,
            "clean": self.clean,
            "not_run": self.not_run,
            "pending": self.pending,
            "problems": [str(problem) for problem in self.problems],
            "summary": self.summary(),
            "settings": self.settings,
        }


def judge_cases(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> dict[str, tuple[Any, ...]]:
    """Records of the cases by kind, in their order."""
    judge = {"fault": judge_fault, "control": judge_control, "clean": judge_clean}
    pairs = list(zip(cases, outcomes, strict=True))
    return {kind: tuple(judge[kind](case, outcome) for case, outcome in pairs if case.kind == kind) for kind in judge}


def judge_fault(case: Case, outcome: Outcome) -> FaultRecord:
    """The outcome of a planted fault, scored."""
    fault, info = case.fault, case.habitat.info
    assert fault is not None
    score: Score = score_finding(
        outcome.finding, fault, stages=outcome.stages or info.stages, layers=outcome.layers or info.layers
    )
    return FaultRecord(
        **_common(case, outcome),
        instance=case.seed,
        family=fault.family,
        simulated=fault.simulated,
        below_power=below_power(fault, case.habitat.floor.floor.power),
        detected=score.detected,
        localized=score.localized,
        sliced=score.sliced,
        cause_named=score.cause_named,
        cause_listed=score.cause_listed,
        proved=score.proved,
        truth=fault.truth,
        also=fault.also,
        rung=fault.rung,
        cause=fault.cause,
    )


def judge_control(case: Case, outcome: Outcome) -> ControlRecord:
    """The outcome of a negative control."""
    fault, finding = case.fault, outcome.finding
    assert fault is not None
    refuted = None if finding is None or fault.claim is None else finding.evidence.get("claim_refuted")
    return ControlRecord(
        **_common(case, outcome),
        instance=case.seed,
        family=fault.family,
        blamed=accuses(finding),
        unresolved=finding is not None and finding.verdict == "unresolved",
        claim=fault.claim,
        claim_refuted=refuted,
    )


def judge_clean(case: Case, outcome: Outcome) -> CleanRecord:
    """The outcome of a healthy engine."""
    finding = outcome.finding
    return CleanRecord(
        **_common(case, outcome),
        alarm=accuses(finding),
        unresolved=finding is not None and finding.verdict == "unresolved",
        chunk=case.schedule.chunk,
        decode=case.schedule.decode,
    )


def _common(case: Case, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": case.name,
        "model": case.habitat.model,
        "prompt": case.request.name,
        "tokens": len(case.request.ids),
        "status": outcome.status,
        "error": outcome.error,
        "seconds": outcome.seconds,
        "forwards": outcome.forwards,
        "generations": outcome.generations,
        "finding": outcome.finding,
        "said": outcome.said,
    }


def _rates(faults: Sequence[FaultRecord]) -> dict[str, Rate]:
    def rate(column: str) -> Rate:
        values = [getattr(one, column) for one in faults]
        asked = [value for value in values if value is not None]
        return Rate.among(sum(asked), len(asked))

    return {column: rate(column) for column in ("detected", "localized", "sliced", "cause_named", "proved")}
