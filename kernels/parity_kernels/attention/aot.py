"""Which forms of attention must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.attention.kernel import attention_decode_kernel, attention_prefill_kernel
from parity_kernels.backend.aot import ANY_BF16, WGMMA_BF16, AotCase

_TENSORS = {name: "*bf16" for name in ("q_ptr", "cache_k_ptr", "cache_v_ptr", "out_ptr")}
_STRIDES = dict.fromkeys(
    (
        "q_row_stride", "q_head_stride", "k_slot_stride", "k_position_stride", "k_head_stride", "v_slot_stride",
        "v_position_stride", "v_head_stride",
    ),
    "i32",
)  # fmt: skip
_PREFILL = {"row_start_ptr": "*i32", "slots_ptr": "*i32", "first_position_ptr": "*i32", "scale": "fp32"}
_DECODE = {"slots_ptr": "*i32", "positions_ptr": "*i32", "scale": "fp32"}

AOT = [
    *(
        AotCase(
            name=f"attention_prefill_{head_dim}",
            kernel=attention_prefill_kernel,
            signature={**_TENSORS, **_PREFILL, **_STRIDES},
            constexprs={
                "H": heads, "G": kv_heads, "K": head_dim, "BLOCK_M": tile, "BLOCK_N": 64 if head_dim <= 128 else 32,
            },
            num_warps=8 if head_dim >= 128 else 4,
            num_stages=2,
            ptx_has=(WGMMA_BF16,),
            ptx_lacks=(r"\.f64",),
        )
        for head_dim, heads, kv_heads, tile in ((64, 6, 2, 128), (128, 32, 4, 128), (256, 8, 1, 64))
    ),
    *(
        AotCase(
            name=f"attention_decode_{head_dim}",
            kernel=attention_decode_kernel,
            signature={**_TENSORS, **_DECODE, **_STRIDES},
            constexprs={"H": heads, "G": kv_heads, "K": head_dim, "BLOCK_H": 16, "BLOCK_N": 64},
            num_warps=4,
            num_stages=2,
            ptx_has=(ANY_BF16,),
            ptx_lacks=(r"\.f64",),
        )
        for head_dim, heads, kv_heads in ((64, 6, 2), (128, 32, 4))
    ),
]  # fmt: skip
