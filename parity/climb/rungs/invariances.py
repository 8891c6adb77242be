"""Rung 3: what must hold of the engine whatever the right answer is, and does not?"""

from __future__ import annotations

from typing import Any

from parity.climb.bench import Bench
from parity.climb.case import CHECKED
from parity.climb.knobs import Knob, turn_knobs
from parity.climb.promises import beyond_rounding
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.errors import RunnerDiedError
from parity.fingerprint.causes import PROBES_CHANGE_BITS
from parity.invariance import CHECKS, Invariance, Outcome, Subject, launch_coverage, run_checks
from parity.invariance.launches import judge_coverage
from parity.invariance.record import not_run
from parity.invariance.sums import judge_sums
from parity.records import Finding
from parity.runner import Request, Schedule

CONTROLS = ("repeat", "causality")
"""What any oracle can be asked to keep: the comparison, and the machine, change no bit by themselves."""


LEFT_OUT = "Whoever asked left it out."
DIED = "The engine's process died"


def obstacle(bench: Bench) -> str:
    return ""  # of a trace, its launches and its sums can be judged; where it has neither, the result says so


def run(bench: Bench) -> RungResult:
    coverage = launch_coverage(bench.trace)
    found = _examined(bench)
    broken = [one for one in found if one.outcome is Outcome.BROKEN]
    outcomes = {one.name: one.outcome.value for one in found}
    cut = [one for one in coverage if one.truncated]
    numbers: dict[str, Any] = {
        "outcomes": outcomes,
        "broken": len(broken),
        "launches": len(coverage),
        "launches_truncated": len(cut),
        "rows_lost": sum(one.lost for one in cut),
    }
    knobs = _knobs(bench)
    if knobs:
        numbers["knobs"] = {f"{one.op}={one.path}": one.verdict for one in knobs}
    more: dict[str, Any] = {
        "numbers": numbers,
        "control": _control(bench),
        "evidence": {
            "invariances": found,
            "coverage": coverage,
            "lines": [one.line() for one in coverage],
            "knobs": knobs,
        },
        "commands": (f"parity invariants {bench.case.sut} --prompt FILE",),
        "leaves_open": tuple(
            f"{one.name}: {one.sentence}" for one in found if one.outcome in (Outcome.NOT_RUN, Outcome.UNJUDGED)
        ),
    }
    findings = tuple(finding for one in broken if (finding := _finding(bench, one)) is not None)
    if findings:
        return INVARIANCES.result(Status.FOUND, findings[0].sentence, findings=findings, **more)
    held = [one.name for one in found if one.outcome is Outcome.HELD]
    died = next((one for one in found if one.sentence.startswith(DIED)), None)
    if died is not None:
        more["numbers"]["died_under"] = died.name
        return INVARIANCES.result(Status.INCONCLUSIVE, f"{DIED} under the check `{died.name}`.", **more)
    if broken:
        said = "; ".join(f"{one.name}: {one.sentence}" for one in broken)
        said = f"Promised bits are broken, no further than rounding explains: {said}"
        return INVARIANCES.result(Status.INCONCLUSIVE, said, **more)
    if not held:
        return INVARIANCES.result(Status.INCONCLUSIVE, "No check could be run and judged.", **more)
    more["rules_out"] = tuple(CHECKED[name] for name in held)
    return INVARIANCES.result(Status.RULED_OUT, f"Held: {', '.join(held)}.", **more)


def _knobs(bench: Bench) -> list[Knob]:
    """The knob matrix, where there is a symptom to move and somebody asked for it."""
    symptom = bench.results.get(2)
    if not bench.case.knobs or symptom is None or symptom.status is not Status.FOUND:
        return []
    return turn_knobs(bench)


def _examined(bench: Bench) -> list[Invariance]:
    if bench.sut is None:
        return [_of_trace(name, bench) for name in CHECKED]
    subject = bench.subject
    if bench.fed[1] == Schedule():
        subject.keep(bench.case.request, bench.trace)
    asked = bench.case.checks or CHECKED
    return [_check(name, subject) if name in asked else not_run(name, "nothing", LEFT_OUT) for name in CHECKED]


def _check(name: str, subject: Subject) -> Invariance:
    """One check; an engine that fails under it, as no prompt makes it fail, leaves the others to be run."""
    try:
        return CHECKS[name](subject)
    except RunnerDiedError as error:
        return not_run(name, "it was tried", f"{DIED}: {error}"[:600])
    except Exception as error:
        return not_run(name, "it was tried", f"The engine failed: {type(error).__name__}: {error}"[:600])


def _of_trace(name: str, bench: Bench) -> Invariance:
    """A check of a trace alone: coverage by the launches that it states, sums by its tensors; the others turn something
    and run the engine again."""
    asked = bench.case.checks or CHECKED
    if name not in asked:
        return not_run(name, "nothing", LEFT_OUT)
    if name == "coverage":
        return judge_coverage(launch_coverage(bench.trace))
    return judge_sums(bench.trace) if name == "sums" else not_run(name, "nothing", "A trace cannot be run again.")


def _finding(bench: Bench, one: Invariance) -> Finding | None:
    """A broken invariance as a finding; None where rounding explains how far its arms lie apart."""
    assert one.site is not None
    if one.name == "probes":
        return Finding(
            verdict="refused",
            rung="probes",
            stage=one.site.stage,
            slice=one.site.slice,
            cause=PROBES_CHANGE_BITS,
            sentence=f"The traces of this engine show what it does not compute unobserved. {one.sentence}",
            evidence=_evidence(one),
        )
    if not beyond_rounding(one, bench.info):
        return None
    return Finding(
        verdict="fault",
        rung=f"invariances ({one.name})",
        layers=one.site.layers,
        stage=one.site.stage,
        slice=one.site.slice,
        sentence=f"{one.name}: {one.sentence}",
        evidence=_evidence(one),
    )


def _evidence(one: Invariance) -> dict[str, Any]:
    return {"invariance": one, "repeated": False, "repetition": "not repeated: the check was run on one prompt"}


def _control(bench: Bench) -> dict[str, Any]:
    brief = Request(bench.request.name, bench.request.ids[:72])
    if len(brief.ids) < 8:
        return {}
    kept = run_checks(bench.oracle, brief, checks=CONTROLS).invariances
    outcomes = {one.name: one.outcome.value for one in kept}
    return {"arm": INVARIANCES.control, **outcomes, "healthy": not any(one.outcome is Outcome.BROKEN for one in kept)}


INVARIANCES = Rung(
    number=3,
    name="invariances",
    question="What must hold of the engine whatever the right answer is, and does not?",
    claim="The engine breaks what must hold of it whatever the right answer is.",
    prediction="A launch falls short of its work, or a turn that must not matter moves a row beyond rounding.",
    needs=("an engine that runs again; of a trace, the launches that it states and the stages that sums are about",),
    rules_out=tuple(CHECKED.values()),
    control="the oracle, asked to keep what any runner must",
    obstacle=obstacle,
    cost=lambda case: Cost(forwards=5.0, steps=3, lab_seconds=3.0),
    run=run,
)
