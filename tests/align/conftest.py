"""Small traces in memory, with rows in whatever order a test wants."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.stages import term
from parity.trace import MemoryTrace

ENVIRONMENT = Environment("3", "2", None, None, "test", "none", 1, "cpu", False)
RECIPE = Recipe("fp32", "fp32", "fp32", "fp32", "fp32", "fp32", "fp32")


def run_of(requests: dict[str, tuple[int, ...]], *, root: str = "root", model: str = "model") -> Run:
    return Run(
        family="qwen3_moe",
        model=model,
        layers=1,
        request_names=tuple(requests),
        requests=tuple(requests.values()),
        recipe=RECIPE,
        lineage=Lineage(root),
        environment=ENVIRONMENT,
    )


def capture_of(
    number, stage, tensor, position, *, request=None, slot=None, expert=None, phase="prefill", **more
) -> Capture:
    as_ints = {k: None if v is None else np.asarray(v, np.int32) for k, v in {"slot": slot, "expert": expert}.items()}
    rows = Rows(
        np.zeros(len(position), np.int32) if request is None else np.asarray(request, np.int32),
        np.asarray(position, np.int64),
        **as_ints,
    )
    defaults = {"step": 0, "chunk": 0, "axes": term(stage).axes, "layer": None if stage == "logits" else 0}
    return Capture(
        number=number,
        stage=stage,
        phase=phase,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        rows=rows,
        **{**defaults, **more},
    )


def trace_of(pairs, requests: dict[str, tuple[int, ...]] | None = None) -> MemoryTrace:
    captures = tuple(capture for capture, _ in pairs)
    return MemoryTrace(run_of(requests or {"a": (1, 2, 3)}), captures, {c.number: t for c, t in pairs})


def permuted(ids: torch.Tensor, values: torch.Tensor, n_experts: int):
    """[T, S, W] values as an engine's expert rows: sorted by expert; returns (rows [R, W], token, slot, expert,
    offsets)."""
    flat = ids.flatten()
    order = torch.argsort(flat, stable=True)
    offsets = [0, *torch.bincount(flat, minlength=n_experts).cumsum(0).tolist()]
    slots = ids.shape[1]
    return values.flatten(0, 1)[order], (order // slots).numpy(), (order % slots).numpy(), flat[order].numpy(), offsets


@pytest.fixture(scope="session")
def build():
    return SimpleNamespace(run=run_of, capture=capture_of, trace=trace_of, permuted=permuted)
