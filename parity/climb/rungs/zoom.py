"""Rung 6: which layers, head, expert, rows and columns are wrong, what shape has the error, and is it there again?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parity.climb.bench import Bench
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.climb.rungs.symptom import repeat_symptom
from parity.fingerprint import ErrorField, ReducedField, reduce_field
from parity.invariance import Coverage, Invariance, launch_coverage
from parity.ladder.locate import locate
from parity.ladder.memory import settle_memory
from parity.ladder.replay import Replay
from parity.reading import read_record
from parity.records import Finding, Verdict, site_name

MOST_FIELDS = 6
"""Sites whose error field is kept for the report, about 50 kB each: as many as a figure of experts shows."""


def obstacle(bench: Bench) -> str:
    if bench.floor is None:
        return "without a floor nothing was judged"
    done = bench.results
    missing = [str(number) for number in (4, 5) if number not in done or not done[number].ran]
    if missing:
        return f"it reads the comparisons of rungs {' and '.join(missing)}, which were not run"
    broken = [str(number) for number, name in ((4, "chained"), (5, "isolated")) if done[number].summary(name) is None]
    return f"it reads the comparisons of rungs {' and '.join(broken)}, which were not finished" if broken else ""


def run(bench: Bench) -> RungResult:
    assert bench.floor is not None
    chained, isolated = bench.summary(4, "chained"), bench.summary(5, "isolated")
    coverage = coverage_of(bench)
    finding = locate(bench.replay, floor=bench.floor, chained=chained, isolated=isolated, coverage=coverage)
    if finding.verdict == "clean":
        numbers = {"over_floor": finding.over_floor, "sites": len(chained.comparisons)}
        again = repeat_symptom(bench)
        if again is not None:
            numbers["symptom_repeated"] = again["repeated"]
        return ZOOM.result(
            Status.RULED_OUT, finding.sentence, numbers=numbers, leaves_open=finding.not_excluded,
            evidence={} if again is None else {"symptom": again},
        )  # fmt: skip
    if finding.verdict != "fault":
        open_ends = {"open": finding.evidence.get("open", ())}
        return ZOOM.result(Status.INCONCLUSIVE, finding.sentence, evidence=open_ends, leaves_open=finding.not_excluded)
    finding = settle_memory(finding, invariances_of(bench))
    repetition = _repeat(bench, finding)
    finding = replace(finding, evidence={**finding.evidence, **repetition})
    names = [site_name(layer, finding.stage or "") for layer in finding.layers or (None,)]
    control = bench.results[5].control
    scores = control.get("over_floor", {})
    return ZOOM.result(
        Status.FOUND,
        finding.sentence,
        findings=(finding,),
        numbers={"over_floor": finding.over_floor, "layers": finding.layers, "repeated": repetition["repeated"]},
        control={"arm": ZOOM.control, **{name: scores.get(name) for name in names}} if scores else {},
        evidence={"second": repetition, "fields": _fields(bench, finding)},
    )


def _fields(bench: Bench, finding: Finding) -> list[ReducedField]:
    """The error fields of the finding's first sites, small enough to keep: what a report draws."""
    sites = [bench.replay.site(layer, finding.stage or "") for layer in (finding.layers or (None,))[:MOST_FIELDS]]
    hyper = bench.run.hyper
    fields = [ErrorField.of(s.sut, s.oracle, hyper=hyper) for s in sites if s.sut is not None and s.oracle is not None]
    return [reduce_field(field) for field in fields if not field.ids]


def coverage_of(bench: Bench) -> tuple[Coverage, ...]:
    """What each launch covered, as rung 3 stored it; where it did not run, as the trace says."""
    stored = bench.results[3].evidence.get("coverage") if 3 in bench.results else None
    return launch_coverage(bench.trace) if stored is None else tuple(read_record(Coverage, one) for one in stored)


def invariances_of(bench: Bench) -> tuple[Invariance, ...]:
    stored = bench.results[3].evidence.get("invariances", ()) if 3 in bench.results else ()
    return tuple(read_record(Invariance, one) for one in stored)


def _repeat(bench: Bench, finding: Finding) -> dict[str, Any]:
    """Whether the same stage adds error of its own on an independent prompt too, in which layers."""
    if bench.sut is None:
        return {"repeated": False, "repetition": "not repeated: a trace cannot be run on another prompt"}
    request, how = bench.case.second_request()
    replay = Replay(bench.second, bench.oracle)
    layers = finding.layers or (None,)
    scores: dict[str, float | None] = {}
    again = []
    for layer in layers:
        records = replay.judge(replay.site(layer, finding.stage or ""), floor=bench.floor)
        judged = [record.over_floor for record in records if record.over_floor is not None]
        scores[site_name(layer, finding.stage or "")] = max(judged, default=None)
        if any(record.verdict in (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE) for record in records):
            again.append(layer)
    decoded = bench.second.run.flags.get("decode", 0)
    fed = f"{request.name} ({how})" + (f", its last {decoded} ids decoded" if decoded else "")
    fed += ", in chunks" if bench.second.run.flags.get("chunk") else ""
    said = f"in {len(again)} of {len(layers)} layers again" if again else "not repeated: it does not show"
    return {"repeated": bool(again), "repetition": f"{said} on {fed}", "second_over_floor": scores}


ZOOM = Rung(
    number=6,
    name="zoom",
    question="Which layers, heads, experts, rows and columns are wrong, and what shape has the error?",
    claim="The error lies in one stage and has the shape of a known cause.",
    prediction="The first stage that adds error does so in a slice, on an independent prompt as well.",
    needs=("the comparisons of rungs 4 and 5",),
    rules_out=(),
    control="the emulation's isolated score at the same sites",
    obstacle=obstacle,
    cost=lambda case: Cost(lab_seconds=3.0),
    run=run,
    rests_on=(4, 5),
)
