"""A projection reads its weight row-major where it lies column-major; the matrix is square, so shapes agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import TRANSPOSED
from parity.records import Site


def other_major(weight: torch.Tensor) -> torch.Tensor:
    """[N, K]: what a reader sees that finds element (n, k) at k * N + n; the transpose when N = K."""
    rows, columns = weight.shape
    return weight.reshape(columns, rows).t().contiguous()


def layout_transposed(*, layer: int, stage: str) -> Fault:
    """The fault at one projection: `attn.q`, `attn.k`, `attn.v` or `attn.out`."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        now = where()
        return other_major(weight) if (now.layer, now.role) == (layer, stage) else weight

    def wrap_fp8(op: Any) -> Any:
        return lambda q, s, weight, scale, **rest: op(q, s, change(weight), scale, **rest)

    def wrap_bf16(op: Any) -> Any:
        return lambda x, weight, **rest: op(x, change(weight), **rest)

    return Fault(
        name="layout_transposed",
        family="qwen3_moe",
        summary="One projection reads its weight transposed.",
        truth=Site((layer,), stage),
        cause=TRANSPOSED,
        op=("linear_fp8", "linear_bf16"),
        wrap={"linear_fp8": wrap_fp8, "linear_bf16": wrap_bf16},
        instances=instance,
    )


def instance(seed: int, hyper: Mapping[str, Any]) -> Fault:
    """Where the matrix is square: q and the output projection when heads * head_dim is the hidden size."""
    draw = Draw("layout_transposed", seed, hyper)
    return layout_transposed(layer=draw.layer(), stage=draw.one_of(("attn.q", "attn.out")))


FAULTS = [layout_transposed(layer=1, stage="attn.out")]
