"""What is noise here? A floor from clean emulation runs of the SUT's recipe, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.compare import sample_aligned, sample_traces
from parity.floor import Floor, FloorSample, calibrate
from parity.floor.purity import refuse_engine
from parity.floor.sample import append_sample, keep_for, read_samples
from parity.ladder.replay import Replay
from parity.ladder.sweep import oracle_trace
from parity.process_runner import OnStep, ProcessRunner
from parity.runner import CapturePlan, Request, Schedule, open_runner


@dataclass(frozen=True)
class CleanRun:
    """One clean run: a prompt, the document it was cut from, how it is fed, the order of the recipe's arithmetic."""

    request: Request
    document: str
    order: int = 0
    schedule: Schedule = Schedule()

    @property
    def name(self) -> str:
        """The prompt, its schedule and the order: what tells it from other runs of the same prompt."""
        fed = f"chunk {self.schedule.chunk or 'all'}, decode {self.schedule.decode}"
        return f"{self.request.name}, {fed}, order {self.order}"


def calibrate_floor(
    *,
    emulations: Sequence[Any],
    oracle: Any,
    requests: Sequence[Request],
    on_step: OnStep | None = None,
) -> Floor:
    """A floor from one clean run a request, each fed whole: chained, isolated, and by distance to the emulation.

    emulations: runners of the recipe, one an order of its arithmetic; they take turns over the requests. With one alone
        nothing is known of the distance between two correct implementations, and the floor has no gate for it.
    oracle: an exact runner on the same weights that can forward, graft and replay. requests: at least 4, each of its
        own document, reaching as far as the prompts to be judged: what lies beyond has no floor.
    Raises UsageError when an engine is loaded in this process: no number of an engine enters a floor.
    """
    runs = [CleanRun(request, request.name, number % len(emulations)) for number, request in enumerate(requests)]
    samples = sample_runs(runs, emulations=dict(enumerate(emulations)), oracle=oracle, on_step=on_step)
    info = emulations[0].describe()
    return calibrate(samples, recipe=info.recipe, lineage=info.lineage, environment=info.environment)


def sample_runs(
    runs: Sequence[CleanRun],
    *,
    emulations: Mapping[int, Any],
    oracle: Any,
    keep: Path | None = None,
    on_step: OnStep | None = None,
    sample_one: Callable[..., FloorSample] | None = None,
) -> list[FloorSample]:
    """The sample of each clean run. emulations: by order; at least those of the runs.

    keep: a file that samples are appended to, one a line; runs that it holds are not run again.
    sample_one: makes one, as `sample_run` does, which is the default.
    Raises UsageError when an engine is loaded in this process, and for a file of another model's samples.
    """
    refuse_engine()
    make = sample_run if sample_one is None else sample_one
    if keep is not None and emulations:
        info = next(iter(emulations.values())).describe()
        keep_for(keep, f"{info.recipe.name} {info.lineage.root}, {make.__name__}")
    known = {} if keep is None else {sample.run: sample for sample in read_samples(keep)}
    samples = []
    for number, run in enumerate(runs, 1):
        sample = known.get(run.name)
        if sample is None:
            sample = make(run, emulations=emulations, oracle=oracle)
            if keep is not None:
                append_sample(sample, keep)
        samples.append(sample)
        if on_step is not None:
            on_step("calibrate", number, len(runs))
    return samples


def sample_run(run: CleanRun, *, emulations: Mapping[int, Any], oracle: Any) -> FloorSample:
    """One emulation run, four ways: chained against the exact oracle, which is routed alike, and against one that is
    free; each stage against exact arithmetic on the same inputs; and each stage against another order of the same
    recipe on the same inputs.

    The other order is the plainest besides its own, since a judged engine is held against the plainest.
    """
    emulation = emulations[run.order]
    clean = emulation.forward([run.request], schedule=run.schedule, capture=CapturePlan())
    sample = FloorSample(run.name, document=run.document, order=run.order)
    sample_traces(oracle=oracle_trace(oracle, clean), clean=clean, run=run.name, into=sample)
    free = oracle_trace(oracle, clean, routed_alike=False)
    sample_traces(oracle=free, clean=clean, run=run.name, into=sample, mode="free")
    others = [order for order in sorted(emulations) if order != run.order]
    other = emulations[others[0]] if others else None
    recipe = emulation.describe().recipe.name
    for site in Replay(clean, oracle).sites():
        if site.sut is None or site.oracle is None:
            continue
        sample_aligned(sample, oracle=site.oracle, clean=site.sut)
        if other is not None:
            near = site.recompute(other, recipe=recipe)
            sample_aligned(sample, oracle=near, clean=site.sut, mode="distance")
    return sample


@dataclass(frozen=True)
class Opening:
    """How to open a runner: `NAME:MODEL` and its options."""

    spec: str
    options: Mapping[str, Any] = field(default_factory=dict)


def calibrate_apart(
    *,
    emulations: Sequence[Opening],
    oracle: Opening,
    requests: Sequence[Request],
    on_step: OnStep | None = None,
) -> Floor:
    """`calibrate_floor` in a process of its own, for a caller that has an engine loaded."""
    with ProcessRunner(oracle.spec, on_step=on_step, **oracle.options) as child:
        return child.call(_calibrate_here, tuple(emulations), tuple(requests))


def _calibrate_here(oracle: Any, emulations: Sequence[Opening], requests: Sequence[Request]) -> Floor:
    opened = [open_runner(opening.spec, **opening.options) for opening in emulations]
    # Steps of single forward passes are not told: a step here is a clean run.
    on_step, oracle.on_step = getattr(oracle, "on_step", None), None
    return calibrate_floor(emulations=opened, oracle=oracle, requests=requests, on_step=on_step)
