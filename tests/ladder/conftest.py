"""A floor for the random model, calibrated in a process without any engine, and the exact oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from parity.floor import Floor
from parity.ladder import Opening, calibrate_apart
from parity.runner import Request, open_runner

LENGTHS = (175, 170, 165, 180, 172, 168)
"""Clean prompts reach past the last position that is judged."""


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
