"""Rung 8: what is the smallest case that still shows it? The prompt, shortened while the site still exceeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parity.climb.bench import CHUNKS, Bench
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.climb.store import write_json
from parity.decode import Tried
from parity.ladder.replay import Replay
from parity.records import Finding, Verdict, site_name
from parity.runner import CapturePlan, Request, Schedule

FILE = "fixture.json"
SHORTEST = 8
REFINED = 3
"""Bisections between the last length that shows the fault and the first that does not: an eighth of a halving."""


def obstacle(bench: Bench) -> str:
    if bench.sut is None:
        return "a trace cannot be run on a shorter prompt"
    zoom = bench.results.get(6)
    if zoom is None or not zoom.findings:
        return "there is no site that a shorter prompt could show"
    return ""


def run(bench: Bench) -> RungResult:
    finding = bench.results[6].findings[0]
    ids = bench.case.request.ids

    def try_length(length: int) -> Tried:
        score, faulty = _judge(bench, finding, Request("fixture", ids[:length]))
        return Tried(length, faulty, "not judged" if score is None else f"{score:.3g} of its gate")

    tried = shorten(try_length, len(ids))
    length = min((one.length for one in tried if one.shows), default=len(ids))
    clean = max((one.length for one in tried if not one.shows and one.length < length), default=None)
    content = {
        "name": f"{bench.case.request.name}[:{length}]",
        "ids": ids[:length],
        "site": {"layers": finding.layers, "stage": finding.stage},
        "cause": finding.cause,
        "expected": "the site exceeds its floor with the fault, and does not without it",
    }
    write_json(bench.folder / FILE, content)
    command = f"parity investigate --sut {bench.case.sut} --oracle {bench.case.oracle} --prompt {FILE} --out DIR"
    numbers: dict[str, Any] = {
        "ids": length,
        "of": len(ids),
        "clean_at": clean,
        "tried": {one.length: one.shows for one in tried},
    }
    shorter = length < len(ids)
    said = f"The first {length} of {len(ids)} ids still show it" if shorter else "No shorter beginning shows it"
    said += f", the first {clean} do not." if clean is not None else "."
    return FIXTURE.result(
        Status.FOUND if shorter else Status.RULED_OUT,
        said,
        numbers=numbers,
        control={"arm": FIXTURE.control, "ids": clean, "healthy": True} if clean is not None else {},
        artifacts={FILE: "prompt ids and site of the smallest case"},
        commands=(command,),
    )


def shorten(try_length: Callable[[int], Tried], longest: int) -> list[Tried]:
    """Halve the prompt while it shows the site; then bisect between the last two lengths, at most REFINED times.

    A shorter beginning that shows it after a longer one did not is not looked for: each run costs a forward pass, and a
    fixture has to show the fault, not to be the least that does.
    """
    tried: list[Tried] = []
    good, bad = 0, longest
    while bad // 2 >= SHORTEST:
        tried.append(try_length(bad // 2))
        if not tried[-1].shows:
            good = bad // 2
            break
        bad //= 2
    for _ in range(REFINED if good else 0):
        if bad - good < 2:
            break
        tried.append(try_length((good + bad) // 2))
        good, bad = (good, tried[-1].length) if tried[-1].shows else (tried[-1].length, bad)
    return tried


def _judge(bench: Bench, finding: Finding, request: Request) -> tuple[float | None, bool]:
    """The worst isolated score of the finding's sites on another prompt, and whether any exceeds."""
    stage = finding.stage or ""
    graph = Replay(bench.trace, bench.oracle).family
    wanted = {stage, *graph.stage(stage).inputs, *graph.stage(stage).state, "resid.out", "embed.out"}
    # A fault of decode needs decode steps to show, however short the prompt.
    decoded = min(bench.fed[1].decode, len(request.ids) - 1)
    chunk = bench.case.schedule.chunk if bench.wrong_in != CHUNKS else -(-len(request.ids) // 3)
    schedule = Schedule(chunk=chunk, decode=decoded)
    trace = bench.engine.forward([request], schedule=schedule, capture=CapturePlan(stages=tuple(sorted(wanted))))
    replay = Replay(trace, bench.oracle)
    records = [
        record
        for layer in finding.layers or (None,)
        for record in replay.judge(replay.site(layer, stage), floor=bench.floor)
    ]
    scores = [record.over_floor for record in records if record.over_floor is not None]
    faulty = any(record.verdict in (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE) for record in records)
    bench.tell(f"fixture: {site_name(None, stage)}, {len(request.ids)} ids", 1, 1)
    return max(scores, default=None), faulty


FIXTURE = Rung(
    number=8,
    name="fixture",
    question="What is the smallest case that still shows it?",
    claim="A shorter prompt shows the same fault.",
    prediction="Some beginning of the prompt still takes the site over its floor.",
    needs=("an engine that runs", "a site from rung 6"),
    rules_out=(),
    control="the longest beginning tried that does not show it",
    obstacle=obstacle,
    cost=lambda case: Cost(forwards=3.0, lab_seconds=3.0),
    run=run,
    rests_on=(6,),
)
