"""Where can a fault be put into an engine, and does this one fit? The engine's declared tables, and a check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.errors import ParityError
from parity.faults.fault import RUNGS, Fault
from parity.runner import load, registered
from parity.stages import FAMILIES, VOCABULARY

GROUP = "parity.seams"
"""Entry points of this group name a family and point at the Seams of the engine that runs it."""


@dataclass(frozen=True)
class Seams:
    """What an engine of one family lets a fault replace.

    ops, launches: functions by name. roles: for each op, the roles it is called in. settings: engine settings, name to
    what they do. hyper: names of the effective hyper-parameters.
    """

    family: str
    ops: Mapping[str, Callable[..., Any]]
    launches: Mapping[str, Callable[..., Any]]
    roles: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, str]
    hyper: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Why a fault, or a whole file, cannot be used. file: None for a fault that came from no file."""

    what: str
    fault: str | None = None
    file: Path | None = field(default=None)

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.file, self.fault, self.what) if part is not None)


def known_seams() -> dict[str, Seams]:
    """The seams of every registered engine by family; an engine that does not import here is left out."""
    found = {}
    for name in registered(GROUP):
        try:
            found[name] = load(name, group=GROUP)
        except (ParityError, ImportError):
            continue  # the engine itself says so when it is opened
    return found


def check(fault: Fault, seams: Seams | None = None) -> tuple[Problem, ...]:
    """What is wrong with a fault, in words; nothing when it can be planted.

    seams: the tables of the engine it is meant for; None checks all that needs no engine.
    """
    said = [*_truth(fault), *_shape(fault)]
    if seams is not None and fault.needs_engine():
        said += _names(fault, seams)
    return tuple(Problem(what, fault=fault.name) for what in said)


def _truth(fault: Fault) -> list[str]:
    said = []
    if not isinstance(fault.name, str) or not fault.name:
        said.append(f"a fault has a name, found {fault.name!r}")
    sites = [site for site in (fault.truth, *fault.also) if site is not None]
    if fault.control and (sites or fault.rung):
        said.append("a control has no truth: it is no bug, and naming any site is wrong")
    if not fault.control and not sites and not fault.rung:
        said.append("no truth: state the Site an investigation must name, a rung, or control=True")
    if not fault.control and not fault.cause:
        said.append("no cause: state the cause class")
    if fault.rung is not None and fault.rung not in RUNGS:
        said.append(f"unknown rung {fault.rung!r}: one of {', '.join(RUNGS)}")
    graph = FAMILIES.get(fault.family)
    stages = VOCABULARY if graph is None else {stage.name for _, stage in graph.sites(1)}
    for site in sites:
        if getattr(site, "stage", None) not in stages:
            said.append(f"unknown stage {getattr(site, 'stage', site)!r} of family {fault.family}")
    return said


def _shape(fault: Fault) -> list[str]:
    said = []
    if fault.changes_nothing() and not (fault.control and fault.claim):
        said.append("it changes nothing: give op and wrap, launch, config, weights, engine, sampler, prompt or runner")
    for name, wrap in fault.wraps().items():
        if not callable(wrap):
            said.append(f"op {name} has no function to wrap it with")
    if fault.wrap is not None and not fault.wraps():
        said.append("wrap without the name of an op")
    for what, function in (*fault.launch.items(), ("sampler", fault.sampler), ("prompt", fault.prompt),
                           ("runner", fault.runner), ("instances", fault.instances)):  # fmt: skip
        if function is not None and not callable(function):
            said.append(f"{what} is no function: {function!r}")
    return said


def _names(fault: Fault, seams: Seams) -> list[str]:
    said = []
    if fault.family != seams.family:
        said.append(f"family {fault.family}, and the engine runs {seams.family}")
    changed = () if not isinstance(fault.config, Mapping) else fault.config
    for kind, asked, known in (
        ("op", fault.wraps(), seams.ops),
        ("launch", fault.launch, seams.launches),
        ("engine setting", fault.engine, seams.settings),
        ("hyper-parameter", changed, seams.hyper),
        ("hyper-parameter", fault.needs, (*seams.hyper, "recipe")),
    ):
        unknown = sorted(set(asked) - set(known))
        if unknown:
            said.append(f"unknown {kind} {', '.join(unknown)}: the engine has {', '.join(known)}")
    return said
