"""What is noise here? A floor computed in the run, from clean emulation runs of the SUT's recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.compare import sample_aligned, sample_traces
from parity.floor import Floor, FloorSample, calibrate
from parity.floor.purity import refuse_engine
from parity.ladder.replay import Replay
from parity.ladder.sweep import oracle_trace
from parity.process_runner import ProcessRunner
from parity.runner import CapturePlan, Request, open_runner


def calibrate_floor(
    *,
    emulations: Sequence[Any],
    oracle: Any,
    requests: Sequence[Request],
    on_step: Callable[[str, int, int], None] | None = None,
) -> Floor:
    """A floor from one clean run a request, chained and isolated.

    emulations: runners of the recipe, one an order of its arithmetic; they take turns over the requests.
    oracle: an exact runner on the same weights that can forward, graft and replay. requests: at least 4, each of its
        own document, reaching as far as the prompts to be judged: what lies beyond has no floor.
    Raises UsageError when an engine is loaded in this process: no number of an engine enters a floor.
    """
    refuse_engine()
    samples = []
    for number, request in enumerate(requests):
        samples.append(_clean_run(emulations[number % len(emulations)], oracle, request))
        if on_step is not None:
            on_step("calibrate", number + 1, len(requests))
    info = emulations[0].describe()
    return calibrate(samples, recipe=info.recipe, lineage=info.lineage)


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
    on_step: Callable[[str, int, int], None] | None = None,
) -> Floor:
    """`calibrate_floor` in a process of its own, for a caller that has an engine loaded."""
    with ProcessRunner(oracle.spec, on_step=on_step, **oracle.options) as child:
        return child.call(_calibrate_here, tuple(emulations), tuple(requests))


def _calibrate_here(oracle: Any, emulations: Sequence[Opening], requests: Sequence[Request]) -> Floor:
    opened = [open_runner(opening.spec, **opening.options) for opening in emulations]
    # Steps of single forward passes are not told: a step here is a clean run.
    on_step, oracle.on_step = getattr(oracle, "on_step", None), None
    return calibrate_floor(emulations=opened, oracle=oracle, requests=requests, on_step=on_step)


def _clean_run(emulation: Any, oracle: Any, request: Request) -> FloorSample:
    """One emulation run against the exact oracle: routed alike for the chained part, replayed for the isolated."""
    clean = emulation.forward([request], capture=CapturePlan())
    sample = sample_traces(oracle=oracle_trace(oracle, clean), clean=clean, run=request.name)
    for site in Replay(clean, oracle).sites():
        if site.sut is not None and site.oracle is not None:
            sample_aligned(sample, oracle=site.oracle, clean=site.sut)
    return sample
