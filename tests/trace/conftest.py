"""A small run and captures of every kind, for the tests of the trace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from parity.records import Capture, Lineage, Recipe, Rows, Run
from parity.stages import term
from parity.trace import capture_environment


@pytest.fixture
def run() -> Run:
    """Two requests of 5 and 3 ids on a two-layer model."""
    return Run(
        family="qwen3_moe",
        model="toy",
        layers=2,
        request_names=("a", "b"),
        requests=((7, 1, 2, 3, 4), (9, 8, 7)),
        recipe=Recipe("fp8_block", "e4m3", "e4m3", "fp8", "fp32", "bf16", "bf16"),
        lineage=Lineage("sha256:00", ("fp8_block",)),
        environment=capture_environment(),
        declared=((None, "embed.out"), (0, "moe.gate"), (1, "moe.gate")),
        hyper={"rope_theta": 1e6, "nothing": None},
        flags={"seed": 3},
    )


def make_token_capture(
    number: int, tensor: torch.Tensor, *, stage: str = "embed.out", layer: int | None = None
) -> Capture:
    """A capture of token rows 0..N-1 of request 0."""
    count = tensor.shape[0]
    return Capture(
        number=number,
        stage=stage,
        layer=layer,
        phase="prefill",
        step=0,
        chunk=0,
        axes=term(stage).axes,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        rows=Rows(np.zeros(count, np.int32), np.arange(count, dtype=np.int64)),
    )


def make_expert_capture(number: int, tensor: torch.Tensor, *, layer: int = 0) -> Capture:
    """A capture of expert rows sorted by expert, five tokens with two slots each, every optional field used."""
    position = np.array([3, 0, 4, 1, 2, 2, 0, 1, 3, 4], np.int64)
    slot = np.array([0, 1, 0, 0, 1, 0, 0, 1, 1, 1], np.int32)
    expert = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3], np.int32)
    return Capture(
        number=number,
        stage="moe.gate",
        layer=layer,
        phase="decode",
        step=2,
        chunk=1,
        axes=("R", "F"),
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        rows=Rows(np.zeros(10, np.int32), position, slot, expert),
        geometry={"tile_m": 64, "expert_offsets": [0, 3, 5, 8, 10], "row": np.arange(10, dtype=np.int64) * 2},
        launch={"grid": [2, 1, 4], "block": {"m": 64}, "covers": {"rows": 64}, "requires": {"rows": 5}},
        placement={"global_shape": [10, 12], "offset": [0, 6], "rank": 1},
        reduction="partial",
        basis="half",
        model="draft",
        variant="fused",
    )


@pytest.fixture
def token_capture() -> Callable[..., Capture]:
    """`make_token_capture`, for tests: modules of tests cannot import one another."""
    return make_token_capture


@pytest.fixture
def expert_capture() -> Callable[..., Capture]:
    """`make_expert_capture`, for tests."""
    return make_expert_capture
