"""Does every launch of a run reach all the work there is? The check over `launch_coverage`."""

from __future__ import annotations

from collections.abc import Sequence

from parity.invariance.coverage import BY_ROW, Coverage, launch_coverage
from parity.invariance.record import Invariance, Outcome, not_run
from parity.invariance.subject import Subject
from parity.records import Site, Slice


def check_coverage(subject: Subject) -> Invariance:
    """Launch coverage on the long prompt: what each grid covers against the loads that the run itself shows."""
    return judge_coverage(launch_coverage(subject.base(subject.request)))


def judge_coverage(found: Sequence[Coverage]) -> Invariance:
    """The same of launches that are known already, those of a trace on disk for instance."""
    turn = "nothing: launch arithmetic against the true loads of one run"
    if not found:
        return not_run("coverage", turn, "The runner's trace states no launch.")
    loaded = max(found, key=lambda one: one.required)
    evidence = {"launches": len(found), "largest_load": loaded.required, "its_cap": loaded.covered}
    cut = [one for one in found if one.truncated]
    if not cut:
        sentence = f"Held: {len(found)} launches cover their loads, the largest {loaded.required} of {loaded.covered}."
        return Invariance("coverage", Outcome.HELD, turn, sentence, evidence, "launch arithmetic")
    first = cut[0]
    same = [one for one in cut if (one.stage, one.extent) == (first.stage, first.extent)]
    layers = sorted({one.layer for one in same if one.layer is not None})
    experts = tuple(n for n, load in enumerate(first.loads) if load > first.covered)
    by_expert = {n: (first.covered, first.loads[n] - 1, first.loads[n] - first.covered) for n in experts}
    numbers = {
        "launches_truncated": len(cut),
        "extent": first.extent,
        "rows_lost": sum(one.lost for one in same),
        "by_expert": by_expert,
        "by_layer": {one.layer: one.line() for one in same},
    }
    site = Site(tuple(layers), first.stage, _slice(first, experts))
    unit = "rows" if first.loads else first.extent.rpartition(".")[2]
    where = f" in layers {', '.join(map(str, layers))}" if layers else ""
    sentence = f"Broken first at {first.line()}: {numbers['rows_lost']} {unit} are never computed{where}."
    return Invariance("coverage", Outcome.BROKEN, turn, sentence, evidence, "launch arithmetic", site, numbers)


def _slice(launch: Coverage, experts: tuple[int, ...]) -> Slice:
    """What no program reaches, on the axis that the extent counts; of an extent that is no axis, all."""
    missing = tuple(range(launch.covered, launch.required))
    unit = launch.extent.rpartition(".")[2]
    if launch.loads or unit in BY_ROW:
        return Slice(experts=experts or None, rows=missing)
    if unit in ("cols", "columns"):
        return Slice(columns=(launch.covered, launch.required))
    return Slice(heads=missing) if unit == "heads" else Slice(experts=missing) if unit == "experts" else Slice()
