"""Which knob moves the symptom? Op paths, chunks and options of opening, one at a time, each shown to have turned.

A knob that makes one layer better and another worse is not a cause: it moves noise. One whose turn takes every layer
that was over its floor back under it replaces what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from parity.climb.bench import Bench
from parity.errors import ParityError
from parity.invariance import agree
from parity.invariance.judging import rounding_bound
from parity.ladder.sweep import oracle_trace, sweep_against
from parity.process_runner import ProcessRunner
from parity.records import Verdict
from parity.runner import CapturePlan, Schedule
from parity.trace import Trace

WARNING = "it makes some layers better and others worse: such a knob is not a cause"
PIECES = 3
"""Chunks that the brief prompt is fed in: a first, one in the middle, and a last of another size."""

Residuals = Mapping[str, tuple[float, bool]]
"""By site, the error of the residual leaving each layer, and whether it exceeds its floor."""


@dataclass(frozen=True)
class Knob:
    """One knob at another setting. op: the op whose path it is, `chunk`, or the option of opening; path: the setting.

    before, after: error (rel_l2) of the residual leaving each layer, by site. sites_changed: captures with other bits
    than without the turn. shown: how it is known to have turned, empty where it is not: other bits, or what the run
    itself says that it ran under. over_before, over_after: layers whose residual exceeds its floor.
    verdict: `clears`, `moves` (all layers one way), `mixed`, `no change` (none beyond rounding), `not shown to take
    effect`, or `failed` where the engine cannot run so; sentence: that, or why, in words.
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
    shown: str = ""


def turn_knobs(bench: Bench) -> list[Knob]:
    """Every knob that the engine declares, on the brief prompt: paths of its ops, chunks where it takes them, and the
    options that it can be opened with, where it was named by text; empty where it has none to turn."""
    if bench.sut is None:
        return []
    subject = bench.subject
    base = subject.base(subject.brief)
    before = _residuals(bench, base)
    turns = [*_paths(bench), *_chunks(bench), *_options(bench)]
    return [_turned(bench, base, before, *turn) for turn in turns]


Turn = tuple[str, str, Any]
"""(knob, setting, function that runs the brief prompt so)."""


def _paths(bench: Bench) -> Iterator[Turn]:
    if "variant" not in bench.info.can:
        return
    for op, paths in bench.info.variants.items():
        for path in paths:
            yield (
                op,
                path,
                lambda op=op, path=path: bench.engine.forward(
                    [bench.subject.brief], capture=CapturePlan(), variant={op: path}
                ),
            )


def _chunks(bench: Bench) -> Iterator[Turn]:
    if "chunk" not in bench.info.can:
        return
    brief = bench.subject.brief
    size = -(-len(brief.ids) // PIECES)
    if bench.case.schedule.chunk is None and size < len(brief.ids):
        schedule = Schedule(chunk=size)
        yield "chunk", str(size), lambda: bench.engine.forward([brief], schedule=schedule, capture=CapturePlan())


def _options(bench: Bench) -> Iterator[Turn]:
    case = bench.case
    if ":" not in case.sut:
        return  # an engine that somebody opened: how, is not known here
    for name, values in bench.info.knobs.items():
        for value in values:
            yield name, value, lambda name=name, value=value: _opened_with(bench, _with(bench, name, value))


def _with(bench: Bench, name: str, value: str) -> dict[str, Any]:
    """The engine's options with one at another value, less those that mean nothing beside that value."""
    idle = {one for one, (other, held) in bench.info.knob_needs.items() if other == name and held != value}
    return {**{one: held for one, held in bench.case.sut_options.items() if one not in idle}, name: value}


def _opened_with(bench: Bench, options: Mapping[str, Any]) -> Trace:
    case = bench.case
    with ProcessRunner(case.sut, threads=case.threads, **options) as engine:
        return engine.forward([bench.subject.brief], capture=CapturePlan())


def _turned(bench: Bench, base: Trace, before: Residuals, name: str, setting: str, run: Any) -> Knob:
    try:
        turned = run()
        return _judge(
            bench, name, setting, len(agree(base, turned).differences), before, _residuals(bench, turned),
            said=_said(base, turned, name), judged=turned.run.recipe.name == base.run.recipe.name,
        )  # fmt: skip
    except ParityError as error:
        # An engine need not run in every way that it knows of; the other knobs are turned all the same.
        errors = {site: error for site, (error, _) in before.items()}
        return Knob(name, setting, 0, errors, {}, (), (), "failed", f"{name} at `{setting}`: {error}"[:600])


def _said(base: Trace, turned: Trace, name: str) -> str:
    """What the run itself says otherwise than the run before: the knob's own flag, else another flag or the recipe."""
    was, now = ({"recipe": one.run.recipe.name, **one.run.flags} for one in (base, turned))
    other = [flag for flag in dict.fromkeys((*was, *now)) if was.get(flag) != now.get(flag)]
    flag = name if name in other else next(iter(other), None)
    return "" if flag is None else f"the run says {flag} {now.get(flag)}, and {was.get(flag)} before"


def _residuals(bench: Bench, trace: Trace) -> dict[str, tuple[float, bool]]:
    """Of each layer; judged by the floor where the run's recipe is the floor's."""
    floor = bench.floor if bench.floor is not None and bench.floor.recipe.name == trace.run.recipe.name else None
    summary = sweep_against(bench.oracle, oracle_trace(bench.oracle, trace), trace, floor=floor)
    records = [record for record in summary.comparisons if record.stage == "resid.out" and "rel_l2" in record.whole]
    over = (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE)
    return {record.name: (record.whole["rel_l2"], record.verdict in over) for record in records}


def _judge(
    bench: Bench, op: str, path: str, changed: int, before: Residuals, after: Residuals, *, said: str = "",
    judged: bool = True,
) -> Knob:  # fmt: skip
    names = [name for name in before if name in after]
    over_before = tuple(name for name in names if before[name][1])
    over_after = tuple(name for name in names if after[name][1])
    steps = [after[name][0] - before[name][0] for name in names]
    # By the triangle inequality two runs that lie within rounding of each other differ by no more in their error.
    least = rounding_bound(bench.info)("resid.out", torch.bfloat16)
    better, worse = sum(step < -least for step in steps), sum(step > least for step in steps)
    shown = said or (f"{changed} captures have other bits" if changed else "")
    if not shown:
        verdict, words = "not shown to take effect", "no capture changed a bit"
    elif over_before and not over_after and judged:
        verdict, words = "clears", f"{len(over_before)} layers over their floor are within it"
    elif better and worse:
        verdict, words = "mixed", WARNING
    elif better or worse:
        still = f"{len(over_after)} still over their floor" if judged else "no floor for the recipe it then runs"
        verdict, words = "moves", f"{better} layers better, {worse} worse, and {still}"
    else:
        verdict, words = "no change", f"{shown}, and no layer's error moves beyond rounding"
    return Knob(
        op, path, changed, {name: before[name][0] for name in names}, {name: after[name][0] for name in names},
        over_before, over_after, verdict, f"{op} at `{path}`: {words}.", shown,
    )  # fmt: skip
