"""Rung 5: where does the error arise, each stage alone on the engine's own inputs?"""

from __future__ import annotations

from typing import Any

from parity.climb.bench import CHUNKS, DECODE, Bench
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.climb.rungs.sweep import cleared, not_shown, numbers_of
from parity.ladder.replay import Replay
from parity.records import Comparison, Summary, Verdict
from parity.runner import CapturePlan, Schedule


def obstacle(bench: Bench) -> str:
    return "" if "replay" in bench.oracle_can else "the oracle cannot replay a stage alone"


def run(bench: Bench) -> RungResult:
    isolated = bench.replay.compare(
        floor=bench.floor, progress=lambda done, total: bench.tell("isolated replay", done, total)
    )
    added = [record for record in isolated.comparisons if record.verdict.faulty]
    wrong_in, unjudged = "", 0
    if not added:
        # What is wrong in chunks, or in a decode kernel of its own, the prompt fed whole cannot show.
        wrong_in, isolated, unjudged = _fed_otherwise(bench, isolated)
        added = [record for record in isolated.comparisons if record.verdict.faulty]
    numbers = {**numbers_of(isolated), **({"wrong_in": wrong_in} if wrong_in else {})}
    more: dict[str, Any] = {
        "numbers": {**numbers, "adds": {record.name: record.over_floor for record in added}},
        "control": _control(bench, added, wrong_in=wrong_in),
        "evidence": {"isolated": isolated},
        "commands": (f"parity replay --trace {bench.trace_folder} --oracle {bench.case.oracle}",),
    }
    if wrong_in:
        bench.trace_anew()
    if added:
        said = f"{len(added)} of {numbers['sites']} sites add error of their own, the first is {added[0].name}."
        return REPLAY.result(Status.FOUND, said, **more)
    if isolated.healthy:
        said = f"None of {numbers['sites']} sites adds error of its own: they {cleared(isolated)}.{not_shown(isolated)}"
        if unjudged:
            more["leaves_open"] = (f"decode: {unjudged} sites of the decode steps have no floor",)
        return REPLAY.result(Status.RULED_OUT, said, **more)
    return REPLAY.result(Status.INCONCLUSIVE, f"Not everything could be judged: {numbers['verdicts']}.", **more)


def _fed_otherwise(bench: Bench, isolated: Summary) -> tuple[str, Summary, int]:
    """Whether the engine's stages are wrong when the prompt is fed in chunks, where rung 3 found that these matter, or
    with decode steps behind it: how, all that was judged, and how many sites of decode steps no floor could judge."""
    trace = bench.trace_otherwise(CHUNKS)
    if trace is not None:
        chunked = Replay(trace, bench.oracle).compare(floor=bench.floor)
        if any(record.verdict.faulty for record in chunked.comparisons):
            return CHUNKS, chunked, 0
    trace = bench.trace_otherwise(DECODE)
    if trace is None:
        return "", isolated, 0
    stepped = Replay(trace, bench.oracle).compare(floor=bench.floor).comparisons
    found = [record for record in stepped if record.phase == "decode"]
    judged = [record for record in found if record.verdict not in (Verdict.NO_FLOOR, Verdict.NO_POWER)]
    records = (*isolated.comparisons, *judged)
    wrong = any(record.verdict.faulty for record in judged)
    whole = Summary(tuple(record.name for record in records), records, isolated.unobservable)
    return DECODE if wrong else "", whole, len(found) - len(judged)


def _control(bench: Bench, added: list[Comparison], *, wrong_in: str) -> dict[str, Any]:
    """The emulation's own stages at the sites in question, or at the layers' last stage where there is none."""
    emulated = bench.emulated_trace
    if emulated is None:
        return {}
    asked = bench.with_decode() if wrong_in == DECODE else None
    if asked is not None and bench.recipe_runner is not None:
        steps = Schedule(decode=asked[1].decode)
        emulated = bench.recipe_runner.forward([asked[0]], schedule=steps, capture=CapturePlan())
    replay = Replay(emulated, bench.oracle)
    sites = list(dict.fromkeys((record.layer, record.stage) for record in added)) or _last_sites(bench)
    records = [record for site in sites[:16] for record in replay.judge(replay.site(*site), floor=bench.floor)]
    summary = Summary(tuple(record.name for record in records), tuple(records))
    scores = {record.name: record.over_floor for record in records}
    return {"arm": REPLAY.control, "over_floor": scores, "healthy": not summary.diverged}


def _last_sites(bench: Bench) -> list[tuple[int | None, str]]:
    last = bench.replay.family.layer[-1].name
    return [(layer, last) for layer in range(bench.run.layers)]


REPLAY = Rung(
    number=5,
    name="replay",
    question="Where does the error arise, each stage alone on the engine's own inputs?",
    claim="Some stage of the engine computes wrongly from its own inputs.",
    prediction="Some stage's error on the engine's own inputs exceeds its floor.",
    needs=("a trace with the inputs of each stage", "an oracle that replays a stage", "a floor, to judge"),
    rules_out=("a stage that adds error of its own on this prompt, over the floor",),
    control="the emulation's own stages at the same sites",
    obstacle=obstacle,
    cost=lambda case: Cost(lab_seconds=4.0),
    run=run,
    rests_on=(4,),
)
