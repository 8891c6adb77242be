"""What is to be run? Every fault in each of its instances, every control, and clean runs, each with its prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.faults import Fault, Problem
from parity.runner import Request, RunnerInfo, Schedule
from parity.zoo.catalogue import Catalogue, Exhibit
from parity.zoo.floors import FoundFloor
from parity.zoo.prompts import PromptText, draw_prompt, draw_window

KINDS = ("fault", "control", "clean")


@dataclass(frozen=True)
class Habitat:
    """A model that faults can live in. info: of the healthy engine on it. pool: prompts apart from the floor's."""

    model: str
    info: RunnerInfo
    floor: FoundFloor
    pool: tuple[PromptText, ...]

    def misses(self, fault: Fault) -> str | None:
        """Why the fault cannot live here; None when it can."""
        if fault.family != self.info.family:
            return f"family {fault.family}, and {self.model} is of {self.info.family}"
        has = {**self.info.hyper, "recipe": self.info.recipe.name}
        lacking = [f"{key} {want!r}, not {has.get(key)!r}" for key, want in fault.needs.items() if has.get(key) != want]
        return f"needs {', '.join(lacking)} of {self.model}" if lacking else None


@dataclass(frozen=True)
class Case:
    """One run of the zoo. kind: one of KINDS. name: the fault's, or the clean run's number. spec: how the engine is
    told to plant it, None for a clean run. fault: the instance with its truth; never leaves the process that scores."""

    kind: str
    name: str
    seed: int
    habitat: Habitat
    request: Request
    schedule: Schedule = Schedule()
    exhibit: Exhibit | None = None
    fault: Fault | None = None

    @property
    def spec(self) -> str | None:
        return None if self.exhibit is None else self.exhibit.spec(self.seed)

    @property
    def label(self) -> str:
        return f"{self.name}@{self.seed}" if self.exhibit is not None else self.name

    def key(self, *common: Any) -> str:
        """What tells it from every other case: the instance, its file's content, prompt, feeding, weights, floor, and
        what is `common` to the campaign."""
        exhibit, info = self.exhibit, self.habitat.info
        content = [
            self.kind,
            None if exhibit is None else [exhibit.fault.name, self.seed, exhibit.file_hash()],
            self.request.ids,
            [self.schedule.chunk, self.schedule.decode],
            [info.recipe.name, info.lineage.root, info.lineage.conversions, self.habitat.floor.digest],
            common,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class NotRun:
    """A fault that no model at hand can carry."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    cases: tuple[Case, ...]
    not_run: tuple[NotRun, ...]
    problems: tuple[Problem, ...]


def plan_cases(
    catalogue: Catalogue, habitats: Sequence[Habitat], *, instances: int, clean: int, tokens: tuple[int, int]
) -> Plan:
    """Instances 0..K-1 of every fault, in the first habitat that can carry it, then the clean runs, habitat by turn.

    An instance's prompt is drawn by its name and seed as a random generator's seed, and by nothing else of it.
    """
    cases: list[Case] = []
    not_run: list[NotRun] = []
    problems: list[Problem] = []
    for exhibit in catalogue.exhibits:
        missed = [habitat.misses(exhibit.fault) for habitat in habitats]
        if all(missed):
            not_run.append(NotRun(exhibit.fault.name, "; ".join(reason for reason in missed if reason)))
            continue
        habitat = habitats[missed.index(None)]
        for seed in range(instances):
            fault = exhibit.instance(seed, habitat.info.hyper)
            if isinstance(fault, Problem):
                problems.append(fault)
                continue
            request = draw_prompt(habitat.pool, exhibit.spec(seed).rpartition(":")[2], tokens)
            kind = "control" if fault.control else "fault"
            cases.append(Case(kind, fault.name, seed, habitat, request, exhibit=exhibit, fault=fault))
    for number in range(clean):
        habitat = habitats[number % len(habitats)]
        request, schedule = draw_window(habitat.pool, number // len(habitats), tokens[1])
        cases.append(Case("clean", f"clean-{number}", 0, habitat, request, schedule))
    return Plan(tuple(cases), tuple(not_run), tuple(problems))


def tested(cases: Sequence[Case]) -> Mapping[str, int]:
    """Number of cases by kind."""
    return {kind: sum(case.kind == kind for case in cases) for kind in KINDS}
