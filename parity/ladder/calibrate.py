"""What is noise here? A floor computed in the run, from clean emulation runs of the SUT's recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from parity.compare import sample_aligned, sample_traces
from parity.floor import Floor, FloorSample, calibrate
from parity.floor.purity import refuse_engine
from parity.ladder.replay import Replay
from parity.ladder.sweep import oracle_trace
from parity.runner import CapturePlan, Request


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


def _clean_run(emulation: Any, oracle: Any, request: Request) -> FloorSample:
    """One emulation run against the exact oracle: routed alike for the chained part, replayed for the isolated."""
    clean = emulation.forward([request], capture=CapturePlan())
    sample = sample_traces(oracle=oracle_trace(oracle, clean), clean=clean, run=request.name)
    for site in Replay(clean, oracle).sites():
        if site.sut is not None and site.oracle is not None:
            sample_aligned(sample, oracle=site.oracle, clean=site.sut)
    return sample
