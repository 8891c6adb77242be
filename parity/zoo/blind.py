"""What does the lab find in an engine that it knows nothing of? The one place where the zoo investigates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.climb import Case, investigate
from parity.climb.counted import Counted
from parity.process_runner import ProcessRunner
from parity.records import Finding
from parity.runner import Request, Schedule


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
    said: what each part came to, for whoever wants to know why something was missed.
    """

    finding: Finding
    seconds: Mapping[str, float]
    forwards: int
    generations: int
    stages: tuple[str, ...]
    layers: int
    said: Mapping[str, str] = field(default_factory=dict)


FIXTURE_RUNG = 8
"""Left out: the zoo asks what is wrong, and keeps no smaller case of it."""


def investigate_blind(engine_spec: str, options: Mapping[str, Any], request: Request, setup: Setup) -> BlindFinding:
    """Open an engine, and climb the ladder on a prompt of it.

    engine_spec, options: as `open_runner` takes them; the options may plant a fault, and go to the engine's process
    alone: whoever investigates has an opened engine, an oracle, a floor and the prompt. Conversations are the standard
    ones, the same for every engine.
    Raises what the engine and the investigation raise.
    """
    begin = time.monotonic()
    with ProcessRunner(engine_spec, threads=setup.threads, **options) as process:
        engine = Counted(process)
        info = engine.describe()
        opened = time.monotonic()
        case = Case(
            sut=engine_spec,
            oracle=f"hf:{setup.model}",
            oracle_options={"dtype": "float32"},
            emulation=f"recipe:{setup.model}",
            request=request,
            model=setup.model,
            floor=str(setup.floor),
            schedule=setup.schedule,
            new_tokens=setup.new_tokens,
            claim=setup.claim,
        )
        found = investigate(case, setup.scratch / "case", sut=engine, skip=(FIXTURE_RUNG,))
        seconds = {"open": round(opened - begin, 3), **{one.name: one.seconds for one in found.results}}
        said = {one.name: f"{one.status.value}: {one.sentence}" for one in found.results}
        return BlindFinding(found.finding, seconds, engine.forwards, engine.generations, info.stages, info.layers, said)
