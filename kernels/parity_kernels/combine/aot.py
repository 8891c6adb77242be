"""Which forms of the combine must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import AotCase
from parity_kernels.combine.kernel import combine_kernel

AOT = [
    AotCase(
        name=f"combine_{hidden}",
        kernel=combine_kernel,
        signature={
            "down_ptr": "*bf16", "slot_row_ptr": "*i32", "weights_ptr": "*fp32", "out_ptr": "*bf16", "n_tokens": "i32",
            "n_rows": "i32", "down_stride": "i32",
        },
        constexprs={"D": hidden, "S": top_k, "BLOCK_T": 8, "BLOCK_D": 512},
        num_warps=4,
        ptx_lacks=(r"\.f64",),
        odd=("n_tokens", "n_rows"),
    )
    for hidden, top_k in ((2048, 8), (384, 2))
]  # fmt: skip
