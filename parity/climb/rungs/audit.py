"""Rung 1: does the engine run this checkpoint: its hyper-parameters, its recipe, every tensor and scale, read once?"""

from __future__ import annotations

import re
from typing import Any

from parity.audit import audit
from parity.audit.record import Audit, AuditFinding
from parity.climb.bench import Bench
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.fingerprint.causes import CAUSES
from parity.invariance.record import Outcome
from parity.records import Finding

CONFIG_CHECKS = ("config", "recipe")
PLACE = re.compile(r"^(?:L(\d+)\.)?([a-z_]+(?:\.[a-z_]+)*)")


def obstacle(bench: Bench) -> str:
    if bench.sut is None:
        return "a trace holds no weights and no loader: only an engine can be audited"
    if bench.recipe_runner is None or "stored" not in bench.recipe_runner.describe().can:
        return "no emulation of the engine's recipe that reads the checkpoint was named"
    return ""


def run(bench: Bench) -> RungResult:
    found = audit(oracle=bench.recipe_runner, sut=bench.engine)
    checks = {check.name: check.outcome.value for check in found.checks}
    numbers: dict[str, Any] = {
        "checks": checks,
        "values_compared": len(found.values),
        "values_different": sum(row.verdict == "different" for row in found.values),
        "findings": len(found.findings),
    }
    control = _control(bench)
    more = {
        "numbers": numbers,
        "control": control,
        "evidence": {"audit": found},
        "commands": (f"parity audit --sut {bench.case.sut} --oracle {bench.case.emulation}",),
        "leaves_open": tuple(
            f"{check.name}: {check.sentence}"
            for check in found.checks
            if check.outcome in (Outcome.NOT_RUN, Outcome.UNJUDGED)
        ),
    }
    findings = tuple(_finding(one, found) for one in found.findings)
    if findings:
        said = " ".join(one.sentence for one in findings)
        return AUDIT.result(Status.FOUND, said, findings=findings, **more)
    held = [check.sentence for check in found.checks if check.outcome is Outcome.HELD]
    if not held:
        return AUDIT.result(Status.INCONCLUSIVE, "Nothing could be judged.", **more)
    return AUDIT.result(Status.RULED_OUT, "; ".join(held) + ".", **more)


def _control(bench: Bench) -> dict[str, Any]:
    """The oracle's own values, held against the checkpoint, must be its own."""
    assert bench.recipe_runner is not None
    own = audit(oracle=bench.recipe_runner, sut=bench.recipe_runner)
    return {"arm": AUDIT.control, "findings": len(own.findings), "healthy": not own.findings}


def _finding(one: AuditFinding, found: Audit) -> Finding:
    """A finding whose stage is that of its places, where they have one in common."""
    stages = {match[2] for place in one.places if (match := PLACE.match(place.partition(" ")[0]))}
    return Finding(
        verdict="fault",
        rung="config" if one.check in CONFIG_CHECKS else "checkpoint",
        layers=one.layers,
        stage=next(iter(stages)) if len(stages) == 1 else None,
        cause=one.cause if one.cause in CAUSES else None,
        sentence=one.sentence,
        evidence={
            "check": one.check,
            "name": one.name,
            "expected": one.expected,
            "found": one.found,
            "places": one.places,
            "tensors": one.tensors[:64],
            "repeated": True,
            "repetition": "no prompt enters: values and weights are the same for all",
        },
    )


AUDIT = Rung(
    number=1,
    name="audit",
    question="Does the engine run this checkpoint: its hyper-parameters, its recipe, every tensor and scale read once?",
    claim="The engine runs with other values or weights than the checkpoint's.",
    prediction="Some hyper-parameter, tensor or scale that its operations are given is not the checkpoint's.",
    needs=("an engine that states its values or shows what its operations read", "an emulation that reads the files"),
    rules_out=("other hyper-parameters than the checkpoint's", "tensors and scales that are unread, or others"),
    control="the emulation's own values, held against the checkpoint",
    obstacle=obstacle,
    cost=lambda case: Cost(forwards=0.1, steps=1, lab_seconds=1.5),
    run=run,
)
