"""An FP8 checkpoint is loaded without its scales: every projection has the raw E4M3 values."""

from __future__ import annotations

from parity.faults import Fault
from parity.fingerprint.causes import SCALES_UNUSED
from parity.records import Site

PROJECTIONS = ("attn.k", "attn.v", "attn.out", "moe.gate", "moe.up", "moe.down")

FAULTS = [
    Fault(
        name="quant_scales_ignored",
        family="qwen3_moe",
        summary="The loader ignores weight_scale_inv of a block-FP8 checkpoint.",
        truth=Site((), "attn.q"),
        also=tuple(Site((), stage) for stage in PROJECTIONS),
        rung="checkpoint",
        cause=SCALES_UNUSED,
        details={"tensors": "*_scale_inv"},
        needs={"quantization": "fp8_block"},
        weights={"*_scale_inv": lambda name, tensor: None},
    ),
]
