"""Which forms of the permutation must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import AotCase
from parity_kernels.permute.kernel import permute_count_kernel, permute_place_kernel

_TILE = {"E": 128, "BLOCK_E": 1, "BLOCK_R": 4096}
_ROWS = ("row_token_ptr", "row_slot_ptr", "slot_row_ptr", "offsets_ptr")
# No atomics: an order that depends on who comes first would differ from run to run.
_LACKS = (r"atom\.", r"red\.(global|shared)", r"\.f64")

AOT = [
    AotCase(
        name="permute_count",
        kernel=permute_count_kernel,
        signature={"ids_ptr": "*i32", "counts_ptr": "*i32", "n_pairs": "i32"},
        constexprs=_TILE,
        num_warps=8,
        ptx_lacks=_LACKS,
    ),
    AotCase(
        name="permute_place",
        kernel=permute_place_kernel,
        signature={"ids_ptr": "*i32", "counts_ptr": "*i32", **dict.fromkeys(_ROWS, "*i32"), "n_pairs": "i32"},
        constexprs={**_TILE, "S": 8, "EP": 128},
        num_warps=8,
        ptx_lacks=_LACKS,
    ),
]
