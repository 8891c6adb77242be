"""The same cap over buffers that nobody zeroes: rows past it are those of an earlier layer, chunk or request."""

from __future__ import annotations

from parity.faults import Fault
from parity.fingerprint.causes import STALE
from parity.records import Site
from parity_kernels.faults.moe_tile_truncation import GROUPED, capped_launch, in_some_layers

STALE_ROWS = Fault(
    name="moe_stale_rows",
    family="qwen3_moe",
    summary="The grouped GEMM's grid is too small and its output buffer is reused uncleared: rows past the grid are "
    "whatever was there before, so the output depends on what ran earlier.",
    truth=Site(layers=(), stage="moe.gate"),
    also=tuple(Site((), stage) for stage in GROUPED),
    cause=STALE,
    launch={"grouped_gemm": capped_launch},
    engine={"zeroed_arena": False},
    instances=lambda seed, hyper: in_some_layers(STALE_ROWS, seed, hyper),
)
FAULTS = [STALE_ROWS]
