"""What does the lab find in an engine that it knows nothing of? The one place where the zoo investigates."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parity.floor import Floor
from parity.ladder import Observation, Opening, investigate_capture, observe
from parity.process_runner import ProcessRunner
from parity.records import Finding
from parity.runner import CapturePlan, ComputedGraft, Generation, Graft, Request, Sampling, Schedule, open_runner
from parity.trace import Trace


@dataclass(frozen=True)
class Setup:
    """What an investigator has besides the engine. Nothing of it depends on what is planted.

    model: folder of the weights. floor: file of a noise floor. scratch: a folder of its own, deleted afterwards.
    schedule: how the prompt is fed. new_tokens: of the greedy continuation. threads: CPU threads of each process.
    claim: a diagnosis that somebody made of this run and that is to be tried; a finding says of it
    `evidence["claim_refuted"]`.
    """

    model: str
    floor: Path
    scratch: Path
    new_tokens: int
    schedule: Schedule = Schedule()
    threads: int = 1
    claim: str | None = None


@dataclass(frozen=True)
class BlindFinding:
    """A finding and what it cost. seconds: by part. forwards, generations: calls of the engine under test.

    stages: those that the engine shows; layers: how many it has. Needed to judge the finding, not to make it.
    """

    finding: Finding
    seconds: Mapping[str, float]
    forwards: int
    generations: int
    stages: tuple[str, ...]
    layers: int


@dataclass
class _Calls:
    forwards: int = 0
    generations: int = 0


class CountedRunner(ProcessRunner):
    """An engine in a process of its own that counts how often it was run."""

    def __init__(self, spec: str, **options: Any) -> None:
        self.calls = _Calls()
        super().__init__(spec, **options)

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
        variant: Mapping[str, str] | None = None,
    ) -> Trace:
        self.calls.forwards += 1
        return super().forward(requests, schedule=schedule, capture=capture, graft=graft, variant=variant)

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        self.calls.generations += 1
        return super().generate(
            request, max_new_tokens=max_new_tokens, schedule=schedule, graft=graft, sampling=sampling
        )


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)

    def split(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part] = round(now - self.last, 3)
        self.last = now


def investigate_blind(engine_spec: str, options: Mapping[str, Any], request: Request, setup: Setup) -> BlindFinding:
    """Open an engine, run a prompt through it, and investigate what came out.

    engine_spec, options: as `open_runner` takes them; the options may plant a fault, and go to the engine's process
    alone: whoever investigates has an opened engine, an oracle, a floor and the prompt.
    Raises what the engine and the investigation raise.
    """
    clock = _Clock()
    with CountedRunner(engine_spec, threads=setup.threads, **options) as engine:
        info = engine.describe()
        oracle = open_runner(f"hf:{setup.model}", dtype="float32")
        floor = Floor.load(setup.floor)
        clock.split("open")
        observation = observe(
            engine, request, max_new_tokens=setup.new_tokens, out=setup.scratch / "trace", schedule=setup.schedule
        )
        clock.split("observe")
        text = oracle.generate(request, max_new_tokens=setup.new_tokens)
        clock.split("oracle text")
        finding = _investigate(observation, oracle, floor, text, engine, Opening(f"recipe:{setup.model}"))
        clock.split("investigate")
        calls = engine.calls
    return BlindFinding(finding, clock.seconds, calls.forwards, calls.generations, info.stages, info.layers)


def _investigate(
    observation: Observation, oracle: Any, floor: Floor, text: Generation, engine: Any, emulation: Opening
) -> Finding:
    """The finding, with its proof where the engine lives through it: grafts run it in ways that no prompt does."""
    evidence: dict[str, Any] = {"floor": floor, "oracle_generation": text}
    try:
        return investigate_capture(observation, oracle, sut=engine, emulation=emulation, **evidence).finding
    except Exception as error:
        unproved = investigate_capture(observation, oracle, **evidence).finding
        why = f"The proof could not be run: {type(error).__name__}: {error}"
        return replace(unproved, proof={"proved": False, "sentence": why})
