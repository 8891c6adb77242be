"""How many programs does a linear need, and of which tile? One fixed tile per size class; nothing is autotuned."""

from __future__ import annotations

from parity_kernels.backend import interpreted
from parity_kernels.launch import Launch, ceil_div, next_power_of_2

GROUP = 128  # columns of K that share an activation scale; a weight scale covers GROUP x GROUP

# The tensor core's own fp8 sums keep about 14 bits (DeepSeek-V3 report, arXiv 2412.19437, section 3.3.2); they move to
# fp32 registers after every instruction (32 columns of K). 0 would mean the same and does not: Triton 3.6 and 3.9 then
# widen both operands to fp16 and use the Ampere instruction (the PTX test caught it).
IMPRECISE_K = 32


def linear_launch(*, op: str, n_rows: int, n_cols: int, depth: int) -> Launch:
    """op: "linear_fp8" or "linear_bf16". n_rows T, n_cols N, depth K.

    Compiled: tiles of 64 rows also for one row. Lower ones would not be `wgmma` (fp8 would be widened to fp16); and the
    order of a row's sums is the same in prefill, chunks and decode; decode is bound by reading W in any case.
    Interpreted: the tallest tile that keeps a program's blocks near 2^19 elements.
    The first grid axis is the row tile: programs that run together share a slice of W.
    """
    if interpreted():
        tile_m = min(1024, next_power_of_2(max(n_rows, 1)))
        tile_n = min(next_power_of_2(max(n_cols, 1)), 4096 if tile_m <= 128 else 512)
        block = {"m": tile_m, "n": tile_n, "k": GROUP}
    else:
        narrow = n_rows <= 64 and n_cols <= 8192  # enough programs to fill the device
        block = {
            "m": 64 if n_rows < 512 else 128,
            "n": 32 if narrow else 128,
            "k": GROUP if op == "linear_fp8" else 64,
        }
    programs = (ceil_div(n_rows, block["m"]), ceil_div(n_cols, block["n"]))
    return Launch(
        op=op,
        grid=programs,
        block=block,
        covers={"rows": programs[0] * block["m"], "cols": programs[1] * block["n"]},
        requires={"rows": n_rows, "cols": n_cols},
    )


def compile_options(tile_m: int) -> dict[str, int]:
    """Warps and pipeline stages of a tile `tile_m` rows high (the interpreter ignores them)."""
    return {"num_warps": 8 if tile_m >= 128 else 4, "num_stages": 3 if tile_m >= 128 else 4}
