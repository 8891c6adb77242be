"""Engines for decoding tests: recipe runners, and wrappers that spoil their logits or their sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runner import CapturePlan, Generation, Request, Schedule, open_runner
from parity.trace import MemoryTrace


class Engine:
    """A runner over another: `spoil(logits, positions)` changes logits, `choose(logits, ids, prompt)` choices."""

    def __init__(self, inner: Any, spoil: Any = None, choose: Any = None, can: Any = None, stop: int | None = None):
        self.inner, self.spoil, self.choose, self.can, self.stop = inner, spoil, choose, can, stop

    def describe(self) -> Any:
        info = self.inner.describe()
        return info if self.can is None else replace(info, can=frozenset(self.can))

    def forward(self, requests: Any, *, schedule: Any = Schedule(), capture: Any = None, **rest: Any) -> Any:
        trace = self.inner.forward(requests, schedule=schedule, capture=capture, **rest)
        if self.spoil is None or not trace.select(stage="logits"):
            return trace
        tensors = {c.number: trace.tensor(c) for c in trace.captures}
        for c in trace.select(stage="logits"):
            tensors[c.number] = self.spoil(tensors[c.number].clone(), torch.from_numpy(c.rows.position))
        return MemoryTrace(trace.run, trace.captures, tensors)

    def generate(self, request: Any, *, max_new_tokens: int, **rest: Any) -> Generation:
        ids = list(request.ids)
        wanted = max_new_tokens if self.stop is None else min(self.stop, max_new_tokens)
        for _ in range(wanted):
            fed, done = Request("g", tuple(ids)), len(ids) - len(request.ids)
            plan = CapturePlan(stages=("logits",))
            trace = self.forward([fed], schedule=Schedule(decode=done), capture=plan)
            row = trace.tensor(trace.select(stage="logits")[-1])[-1]
            ids.append(int(row.argmax()) if self.choose is None else self.choose(row, ids, len(request.ids)))
        return Generation(tuple(ids[len(request.ids) :]))


@pytest.fixture(scope="session")
def recipe(fp8_model: Path) -> Any:
    return open_runner(f"recipe:{fp8_model}")


@pytest.fixture(scope="session")
def exact(fp8_model: Path) -> Any:
    return open_runner(f"recipe:{fp8_model}", recipe="fp32")


@pytest.fixture
def engine(recipe: Any) -> Callable[..., Engine]:
    return lambda **changes: Engine(recipe, **changes)
