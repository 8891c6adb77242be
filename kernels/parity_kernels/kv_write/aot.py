"""Which forms of the cache write must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import AotCase
from parity_kernels.kv_write.kernel import kv_write_kernel

_SIZES = (
    "n_rows", "n_slots", "cache_length", "k_stride", "v_stride", "cache_k_slot_stride", "cache_k_position_stride",
    "cache_v_slot_stride", "cache_v_position_stride",
)  # fmt: skip

AOT = [
    AotCase(
        name="kv_write",
        kernel=kv_write_kernel,
        signature={
            **{name: "*bf16" for name in ("k_ptr", "v_ptr", "cache_k_ptr", "cache_v_ptr")},
            "slots_ptr": "*i32",
            "positions_ptr": "*i64",
            **dict.fromkeys(_SIZES, "i32"),
        },
        constexprs={"C": 512, "BLOCK_T": 8, "BLOCK_C": 512},
        num_warps=4,
        ptx_has=(r"st\.global.*v4",),
        ptx_lacks=(r"\.f64",),
    ),
]
