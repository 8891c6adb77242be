"""The block scales of the FP8 experts are indexed [k block, n block] where they lie as [n block, k block]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import BLOCK_SCALES
from parity.records import Site


def transposed_index(scale: torch.Tensor) -> torch.Tensor:
    """[..., N blocks, K blocks]: what a kernel reads that finds block (n, k) at k * N blocks + n in the same memory."""
    rows, columns = scale.shape[-2:]
    return scale.reshape(*scale.shape[:-2], columns, rows).transpose(-1, -2).contiguous()


def scale_swapped(layers: tuple[int, ...]) -> Fault:
    """The fault in `layers`, or in all when there are none."""

    def wrap(op: Any) -> Any:
        def swapped(x_q: Any, x_s: Any, weight: Any, weight_scale: torch.Tensor, **rest: Any) -> torch.Tensor:
            if not layers or where().layer in layers:
                weight_scale = transposed_index(weight_scale)
            return op(x_q, x_s, weight, weight_scale, **rest)

        return swapped

    return Fault(
        name="moe_scale_swapped",
        family="qwen3_moe",
        summary="The scales of the experts' 128x128 weight blocks are read transposed: each block has another's scale.",
        truth=Site(layers, "moe.gate"),
        also=(Site(layers, "moe.up"), Site(layers, "moe.down")),
        cause=BLOCK_SCALES,
        details={"block": 128},
        needs={"recipe": "fp8_block"},
        op="grouped_gemm_fp8",
        wrap=wrap,
        instances=instance,
    )


def instance(seed: int, hyper: Mapping[str, Any]) -> Fault:
    return scale_swapped(Draw("moe_scale_swapped", seed, hyper).layers())


FAULTS = [scale_swapped(())]
