"""Which knob moves the symptom? The engine's variants, one at a time on identical inputs, each shown to have turned.

A knob that makes one layer better and another worse is not a cause: it moves noise. One whose turn takes every layer
that was over its floor back under it replaces what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from parity.climb.bench import Bench
from parity.invariance import agree
from parity.invariance.judging import rounding_bound
from parity.ladder.sweep import oracle_trace, sweep_against
from parity.records import Verdict
from parity.runner import CapturePlan
from parity.trace import Trace

WARNING = "it makes some layers better and others worse: such a knob is not a cause"


@dataclass(frozen=True)
class Knob:
    """One op on another path. before, after: error (rel_l2) of the residual leaving each layer, by site.

    sites_changed: captures with other bits than without the turn, which shows that it took effect. over_before,
    over_after: layers whose residual exceeds its floor. verdict: `clears`, `moves` (all layers one way), `mixed`,
    `no change` (bits, but none beyond rounding) or `not shown to take effect`.
    """

    op: str
    path: str
    sites_changed: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    over_before: tuple[str, ...]
    over_after: tuple[str, ...]
    verdict: str
    sentence: str


def turn_knobs(bench: Bench) -> list[Knob]:
    """Every variant that the engine declares, on the brief prompt; empty where it has none to turn."""
    if bench.sut is None or "variant" not in bench.info.can:
        return []
    subject = bench.subject
    base = subject.base(subject.brief)
    truth = oracle_trace(bench.oracle, base)
    before = _residuals(bench, truth, base)
    found = []
    for op, paths in bench.info.variants.items():
        for path in paths:
            turned = bench.engine.forward([subject.brief], capture=CapturePlan(), variant={op: path})
            changed = len(agree(base, turned).differences)
            found.append(_judge(bench, op, path, changed, before, _residuals(bench, truth, turned)))
    return found


def _residuals(bench: Bench, truth: Trace, trace: Trace) -> dict[str, tuple[float, bool]]:
    """Error of the residual leaving each layer, and whether it exceeds its floor."""
    summary = sweep_against(bench.oracle, truth, trace, floor=bench.floor)
    records = [record for record in summary.comparisons if record.stage == "resid.out" and "rel_l2" in record.whole]
    over = (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE)
    return {record.name: (record.whole["rel_l2"], record.verdict in over) for record in records}


def _judge(bench: Bench, op: str, path: str, changed: int, before: Any, after: Any) -> Knob:
    names = [name for name in before if name in after]
    over_before = tuple(name for name in names if before[name][1])
    over_after = tuple(name for name in names if after[name][1])
    steps = [after[name][0] - before[name][0] for name in names]
    # By the triangle inequality two runs that lie within rounding of each other differ by no more in their error.
    least = rounding_bound(bench.info)("resid.out", torch.bfloat16)
    better, worse = sum(step < -least for step in steps), sum(step > least for step in steps)
    if not changed:
        verdict, said = "not shown to take effect", "no capture changed a bit"
    elif over_before and not over_after:
        verdict, said = "clears", f"{len(over_before)} layers over their floor are within it"
    elif better and worse:
        verdict, said = "mixed", WARNING
    elif better or worse:
        verdict, said = "moves", f"{better} layers better, {worse} worse, and {len(over_after)} still over their floor"
    else:
        verdict, said = "no change", f"{changed} captures have other bits, and no layer's error moves beyond rounding"
    return Knob(
        op, path, changed, {name: before[name][0] for name in names}, {name: after[name][0] for name in names},
        over_before, over_after, verdict, f"{op} by its path `{path}`: {said}.",
    )  # fmt: skip
