"""Engines of the small random model, one instance a module, and a place to wrap one of their ops for one test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.invariance import Subject
from parity.runner import Request
from parity_kernels.forward.runner import TritonRunner, open_runner

BRIEF = 24
LONG = 160
"""160 tokens, top 2 of 5 experts: 64 rows on average, so the incident's grid covers ceil(128 / 64) tiles = 128 rows."""

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def random_prompt(length: int, seed: int = 0) -> Request:
    ids = torch.randint(0, 80, (length,), generator=torch.Generator().manual_seed(seed))
    return Request(f"prompt-{seed}", tuple(ids.tolist()))


@pytest.fixture(scope="session")
def fp8_runner(fp8_model: Path) -> TritonRunner:
    return open_runner(str(fp8_model))


@pytest.fixture
def planted(fp8_runner: TritonRunner, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Wrap], Subject]:
    """planted(op, wrap) is a fresh subject of an engine whose op is wrapped for this test alone."""

    def plant(op: str, wrap: Wrap, *, length: int = BRIEF) -> Subject:
        monkeypatch.setitem(fp8_runner.engine.ops, op, wrap(fp8_runner.engine.ops[op]))
        return Subject(fp8_runner, random_prompt(length), brief=BRIEF)

    return plant
