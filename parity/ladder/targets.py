"""Do a floor's isolated gates see what they must, in every layer? Fixed damage, planted site by site in clean runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.errors import UsageError
from parity.floor import Floor
from parity.floor.damage import DAMAGES
from parity.floor.purity import refuse_engine
from parity.ladder.calibrate import CleanRun
from parity.ladder.power import LEAST_EXPERT_ROWS, damage_site, is_seen, part_of
from parity.ladder.replay import Replay, ReplayedSite
from parity.records import site_name
from parity.runner import CapturePlan
from parity.stages import term


@dataclass(frozen=True)
class Target:
    """Damage that must be seen: its name in `DAMAGES`, the kind of slice it fills, its strength; None: one row."""

    damage: str
    kind: str
    strength: float | None


TARGETS = (
    Target("scale", "tensor", 0.005),
    Target("scale", "expert", 0.005),
    Target("lost rows", "tensor", None),
)
"""A scale of 1.005 in a stage, or in an expert of LEAST_EXPERT_ROWS rows; one lost row."""


@dataclass(frozen=True)
class Tried:
    """One target at one site of one clean run. alarm: the clean site itself is over its gate, so nothing was shown."""

    run: str
    site: str
    target: Target
    rows: int
    seen: bool
    alarm: bool = False


def try_targets(
    floor: Floor,
    runs: Sequence[CleanRun],
    *,
    emulations: Mapping[int, Any],
    oracle: Any,
    targets: Sequence[Target] = TARGETS,
    on_step: Callable[[str, int, int], None] | None = None,
) -> tuple[Tried, ...]:
    """Every target at every site of every layer, of every run by itself.

    runs: clean ones, of at least LEAST_EXPERT_ROWS tokens in prefill: stages of fewer rows are asked for less.
    Stages of ids have no gate of their own and are passed over, as are experts with fewer rows.
    Raises UsageError when an engine is loaded, for a floor of another recipe or weights, and for shorter runs.
    """
    refuse_engine()
    found: list[Tried] = []
    for run in runs:
        if len(run.request.ids) < LEAST_EXPERT_ROWS:
            raise UsageError(
                place=f"targets of a noise floor, run {run.name}",
                expected=f"a prompt of at least {LEAST_EXPERT_ROWS} tokens",
                found=str(len(run.request.ids)),
                next_step="Give a longer prompt: power is promised for as many rows.",
            )
        trace = emulations[run.order].forward([run.request], schedule=run.schedule, capture=CapturePlan())
        floor.refuse_other(trace.run)
        replay = Replay(trace, oracle)
        unseen, sites = trace.run.unobservable, replay.family.sites(trace.run.layers)
        places = [(layer, node.name) for layer, node in sites if node.name not in unseen]
        for number, (layer, stage) in enumerate(places, 1):
            if term(stage).values != "ids":
                site = replay.emulate(replay.site(layer, stage), floor.recipe.name)
                found += _try_site(site, run, floor, targets)
            if on_step is not None:
                on_step("targets", number, len(places))
    return tuple(found)


def _try_site(site: ReplayedSite, run: CleanRun, floor: Floor, targets: Sequence[Target]) -> list[Tried]:
    name = site_name(site.layer, site.stage)
    if site.sut is None or site.oracle is None:
        raise UsageError(
            place=f"targets at {name}",
            expected="a clean run whose every stage can be replayed",
            found=site.obstacle,
            next_step="Run the emulation over whole prompts, with every stage captured.",
        )
    alarm = is_seen(site, site.sut, floor)
    found = []
    for target in targets:
        part = part_of(site, target.kind)
        if part is None:
            continue
        damage = next(one for one in DAMAGES if one.name == target.damage)
        strength = 1 / len(part.rows) if target.strength is None else target.strength
        seen = not alarm and is_seen(site, damage_site(site, part, damage, strength), floor)
        found.append(Tried(run.name, name, target, len(part.rows), seen, alarm))
    return found
