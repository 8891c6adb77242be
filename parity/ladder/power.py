"""What would this floor's isolated gates see? Damage planted in clean emulation runs, weaker and weaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.align import Aligned
from parity.compare.isolated import judge_replayed
from parity.compare.pair import measure_replayed
from parity.errors import UsageError
from parity.floor import Floor
from parity.floor.damage import DAMAGES, Damage, Part, weakest_seen
from parity.floor.purity import refuse_engine
from parity.ladder.calibrate import CleanRun
from parity.ladder.plan import STRICT_ORDERS
from parity.ladder.replay import Replay, ReplayedSite
from parity.records import Power, Verdict
from parity.runner import CapturePlan, Request
from parity.stages import term

LEAST_EXPERT_ROWS = 64
"""Damage in an expert is planted in the smallest one with as many rows: one tile of a grouped GEMM."""

LEAST_SCALE = 1e-4
KINDS = ("tensor", "columns", "head", "expert", "row")


def power_runs(
    documents: Mapping[str, Sequence[int]], *, runs: int, longest: int = 512, orders: Sequence[int] = STRICT_ORDERS
) -> list[CleanRun]:
    """Clean runs of the longest documents, each fed whole, in orders that are not the reference's.

    Raises UsageError for fewer documents than runs.
    """
    chosen = sorted(documents, key=lambda name: (-len(documents[name]), name))[:runs]
    if len(chosen) < runs:
        raise UsageError(
            place="power of a noise floor",
            expected=f"{runs} documents that the floor was not calibrated on",
            found=str(len(chosen)),
            next_step="Give other prompts.",
        )
    others = [order for order in orders if order]
    return [
        CleanRun(Request(name, tuple(documents[name][:longest])), name, others[number % len(others)])
        for number, name in enumerate(chosen)
    ]


def measure_power(
    floor: Floor,
    runs: Sequence[CleanRun],
    *,
    emulations: Mapping[int, Any],
    oracle: Any,
    on_step: Callable[[str, int, int], None] | None = None,
) -> tuple[Power, ...]:
    """The weakest damage of every sort that the isolated gates see, by stage and kind of slice.

    runs: clean ones, best of documents that the floor has not seen; each is damaged in another layer, in prefill, and
    what is seen must be seen in all of them. Shares start at one row or one element.
    Raises UsageError when an engine is loaded, or when a clean run is over its gate before anything was planted.
    """
    refuse_engine()
    replays = []
    for run in runs:
        trace = emulations[run.order].forward([run.request], schedule=run.schedule, capture=CapturePlan())
        replays.append(Replay(trace, oracle))
    graph, layers = replays[0].family, replays[0].trace.run.layers
    stages = [node.name for node in (*graph.prologue, *graph.layer, *graph.epilogue) if term(node.name).values != "ids"]
    stages = [stage for stage in stages if stage not in replays[0].trace.run.unobservable]
    found: list[Power] = []
    for number, stage in enumerate(stages, 1):
        inside = any(node.name == stage for node in graph.layer)
        sites = []
        for index, replay in enumerate(replays):
            layer = (index + layers // 2) % layers if inside else None
            sites.append(replay.emulate(replay.site(layer, stage), floor.recipe.name))
        found += _of_stage(stage, sites, floor)
        if on_step is not None:
            on_step("power", number, len(stages))
    return tuple(found)


def _of_stage(stage: str, sites: Sequence[ReplayedSite], floor: Floor) -> Iterator[Power]:
    for site in sites:
        if site.sut is None or site.oracle is None:
            raise UsageError(
                place=f"power at {stage}",
                expected="a clean run whose every stage can be replayed",
                found=site.obstacle,
                next_step="Run the emulation over whole prompts, with every stage captured.",
            )
        if is_seen(site, site.sut, floor):
            raise UsageError(
                place=f"power at {stage}",
                expected="a clean run within its gates",
                found="it is over them before anything was planted",
                next_step="That is a false alarm of the floor: calibrate it on more clean runs.",
            )
    for kind in KINDS:
        parts = [part_of(site, kind) for site in sites]
        held = [part for part in parts if part is not None]
        if len(held) < len(parts):
            continue
        for damage in DAMAGES:
            if damage.name == "swapped rows" and kind == "row":
                continue
            rows = min(len(part.rows) for part in held)
            width = min(part.columns[1] - part.columns[0] for part in held)
            least = {"scale": LEAST_SCALE, "wrong elements": 1 / (rows * width)}.get(damage.name, 1 / rows)

            def seen(strength: float, damage: Damage = damage, held: list[Part] = held) -> bool:
                return all(
                    is_seen(site, damage_site(site, part, damage, strength), floor)
                    for site, part in zip(sites, held, strict=True)
                )

            weakest = weakest_seen(seen, least=least, strongest=damage.strongest)
            strength = None if weakest is None else float(f"{weakest:.3g}")
            yield Power("isolated", stage, kind, damage.name, strength, damage.strongest, rows)


def is_seen(site: ReplayedSite, sut: Aligned, floor: Floor) -> bool:
    """True when `sut` in the place of the site's own tensor is over one of the isolated gates."""
    assert site.oracle is not None
    emulated = [site.emulated] if site.emulated is not None and "distance" in floor.gates else None
    records = judge_replayed([(site.oracle, sut)], emulated=emulated, floor=floor)
    return any(record.verdict in (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE) for record in records)


def damage_site(site: ReplayedSite, part: Part, damage: Damage, strength: float) -> Aligned:
    """The site's own tensor with damage of that strength in a part of it; the same part each time."""
    assert site.sut is not None
    tensor = site.sut.tensor
    leading = tensor.shape[0] * (site.sut.slots or 1)
    flat = tensor.float().reshape(leading, -1).clone()
    damage.apply(flat, part, strength, np.random.default_rng(len(part.rows)))
    return replace(site.sut, tensor=flat.to(tensor.dtype).view(tensor.shape))


def part_of(site: ReplayedSite, kind: str) -> Part | None:
    """Where damage of that kind goes: the middle slice of the kind; None where the stage has none."""
    assert site.sut is not None
    assert site.oracle is not None
    measured = next(m for m in measure_replayed([(site.oracle, site.sut)]) if m.phase == "prefill")
    table = dict(measured.tables).get(kind)
    if table is None or not len(table):
        return None
    rows, width = np.flatnonzero(site.sut.phase == "prefill"), measured.columns.edges[-1]
    slots = site.sut.slots or 1
    rows = (rows[:, None] * slots + np.arange(slots)).reshape(-1)
    middle = int(table.index[len(table) // 2])
    if kind == "row":
        return Part(kind, rows[middle : middle + 1], (0, width))
    if kind == "expert":
        large = table.rows >= LEAST_EXPERT_ROWS
        if not large.any() or site.sut.expert is None:
            return None
        chosen = int(table.index[np.where(large, table.rows, table.rows.max() + 1).argmin()])
        return Part(kind, rows[site.sut.expert.reshape(-1)[rows] == chosen], (0, width))
    if kind == "tensor":
        return Part(kind, rows, (0, width))
    labels = measured.columns.head if kind == "head" else measured.columns.block
    assert labels is not None
    cells = np.flatnonzero(labels == middle)
    return Part(kind, rows, (measured.columns.edges[cells[0]], measured.columns.edges[cells[-1] + 1]))
