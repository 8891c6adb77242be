"""Rung 4: how far is the engine from the truth at each depth, error from upstream included?"""

from __future__ import annotations

from typing import Any

from parity.climb.bench import Bench
from parity.climb.rung import Cost, Rung, RungResult, Status
from parity.ladder.sweep import sweep_against
from parity.records import Summary, Verdict


def obstacle(bench: Bench) -> str:
    missing = sorted({"forward", "graft"} - bench.oracle_can)
    return f"the oracle cannot {', '.join(missing)}" if missing else ""


def run(bench: Bench) -> RungResult:
    chained = sweep_against(bench.oracle, bench.truth, bench.trace, floor=bench.floor)
    control, emulated = _control(bench)
    numbers = numbers_of(chained)
    more: dict[str, Any] = {
        "numbers": {**numbers, "residual_rel_l2": _residuals(chained)},
        "control": control,
        "evidence": {"chained": chained, "emulation": emulated},
        "commands": (f"parity compare {bench.trace_folder} ORACLE_TRACE --floor {bench.case.floor}",),
    }
    if chained.diverged:
        first = next(record for record in chained.comparisons if record.verdict.faulty)
        said = (
            f"{numbers['faulty']} of {numbers['sites']} sites exceed their floor, error from upstream included; the "
            f"first is {first.name}"
        )
        return SWEEP.result(Status.FOUND, said + ".", **more)
    if chained.healthy:
        said = f"All {numbers['sites']} sites {cleared(chained)}.{not_shown(chained)}"
        return SWEEP.result(Status.RULED_OUT, said, **more)
    said = f"Not everything could be judged: {numbers['verdicts']}."
    return SWEEP.result(Status.INCONCLUSIVE, said, **more)


def cleared(summary: Summary) -> str:
    """How near to its floor a healthy summary is; without one only equal bits are healthy."""
    worst = summary.worst_over_floor
    return (
        "are the same bits" if worst is None else f"lie within their floor; the worst slice at {worst:.2f} of its gate"
    )


def not_shown(summary: Summary) -> str:
    """What the engine cannot show, as one more sentence; empty when it shows all."""
    return f" Not shown by it: {', '.join(summary.unobservable)}." if summary.unobservable else ""


def numbers_of(summary: Summary) -> dict[str, Any]:
    """Counts and the worst score of a summary."""
    faulty = [record for record in summary.comparisons if record.verdict.faulty]
    return {
        "sites": len(summary.comparisons),
        "verdicts": summary.verdicts,
        "unobservable": dict(summary.unobservable),
        "faulty": len(faulty),
        "first": faulty[0].name if faulty else None,
        "worst_over_floor": summary.worst_over_floor,
        "nonfinite": sum(record.verdict is Verdict.NONFINITE for record in summary.comparisons),
        "unjudged_slices": sum(record.unjudged for record in summary.comparisons),
    }


def _residuals(summary: Summary) -> dict[str, float | None]:
    """Whole-tensor error of the residual stream leaving each layer."""
    return {r.name: r.whole.get("rel_l2") for r in summary.comparisons if r.stage == "resid.out"}


def _control(bench: Bench) -> tuple[dict[str, Any], Summary | None]:
    """The emulation of the recipe in the engine's place."""
    emulated, truth = bench.emulated_trace, bench.emulated_truth
    if emulated is None or truth is None:
        return {}, None
    summary = sweep_against(bench.oracle, truth, emulated, floor=bench.floor)
    numbers = {**numbers_of(summary), "residual_rel_l2": _residuals(summary)}
    return {"arm": SWEEP.control, **numbers, "healthy": not summary.diverged}, summary


SWEEP = Rung(
    number=4,
    name="sweep",
    question="How far is the engine from the truth at each depth, error from upstream included?",
    claim="The engine's numbers leave what its precision recipe explains.",
    prediction="Some site's chained error exceeds its floor.",
    needs=("a trace of the engine's stages", "an oracle that forwards and grafts", "a floor, to judge"),
    rules_out=("an error that shows at some depth on this prompt, over the floor",),
    control="the emulation of the engine's recipe in its place, on the same ids",
    obstacle=obstacle,
    cost=lambda case: Cost(lab_seconds=5.0),
    run=run,
)
