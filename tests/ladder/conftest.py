"""A floor for the random model, made in a process without any engine, the exact oracle, and what one trace tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.floor import Floor
from parity.invariance import Coverage, launch_coverage
from parity.ladder import Opening, Replay, calibrate_apart, sweep
from parity.ladder.locate import locate
from parity.records import Finding, Summary
from parity.runner import CapturePlan, Graft, Request, open_runner
from parity.trace import Trace

FACTOR = 1.5
"""Of the second layer's attention output in `faulty_trace`."""


LENGTHS = (175, 170, 165, 180, 172, 168)
"""Clean prompts reach past the last position that is judged."""


@dataclass(frozen=True)
class Located:
    """What follows from one trace alone."""

    finding: Finding
    chained: Summary
    isolated: Summary
    coverage: tuple[Coverage, ...]


def look_at(trace: Trace, oracle: Any, floor: Floor) -> Located:
    """Coverage, sweep, replay and zoom, as rungs 3 to 6 take them from a trace."""
    chained, replay, coverage = sweep(oracle, trace, floor=floor), Replay(trace, oracle), launch_coverage(trace)
    isolated = replay.compare(floor=floor)
    finding = locate(replay, floor=floor, chained=chained, isolated=isolated, coverage=coverage)
    return Located(finding, chained, isolated, coverage)


def random_request(seed: int, length: int) -> Request:
    """A prompt of random ids of the random model's vocabulary of 80."""
    ids = torch.randint(0, 80, (length,), generator=torch.Generator().manual_seed(seed))
    return Request(f"random-{seed}", tuple(ids.tolist()))


@pytest.fixture(scope="session")
def floor(fp8_model: Path) -> Floor:
    spec = f"recipe:{fp8_model}"
    return calibrate_apart(
        emulations=[Opening(spec, {"order": order}) for order in range(3)],
        oracle=Opening(spec, {"recipe": "fp32"}),
        requests=[random_request(100 + number, length) for number, length in enumerate(LENGTHS)],
    )


@pytest.fixture(scope="session")
def oracle(fp8_model: Path) -> Any:
    return open_runner(f"hf:{fp8_model}", dtype="float32")


@pytest.fixture(scope="session")
def request_160() -> Request:
    return random_request(0, 160)


@pytest.fixture(scope="session")
def exact(fp8_model: Path) -> Any:
    return open_runner(f"recipe:{fp8_model}", recipe="fp32")


@pytest.fixture(scope="session")
def healthy_trace(fp8_model: Path, request_160: Request) -> Trace:
    return open_runner(f"recipe:{fp8_model}", order=1).forward([request_160], capture=CapturePlan())


@pytest.fixture(scope="session")
def faulty_trace(fp8_model: Path, request_160: Request, healthy_trace: Trace) -> Trace:
    """The second layer's attention output FACTOR times too large, and everything after it computed from that."""
    (own,) = healthy_trace.select(stage="attn.out", layer=1)
    wrong = Graft(1, "attn.out", (healthy_trace.tensor(own).float() * FACTOR).bfloat16(), own.rows)
    runner = open_runner(f"recipe:{fp8_model}", order=1)
    return runner.forward([request_160], capture=CapturePlan(), graft=[wrong])
