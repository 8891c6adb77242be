"""Which forms of the embedding must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import AotCase
from parity_kernels.embed.kernel import embed_kernel

AOT = [
    AotCase(
        name=f"embed_{ids[1:]}",
        kernel=embed_kernel,
        signature={
            "ids_ptr": ids, "weight_ptr": "*bf16", "out_ptr": "*bf16", "n_tokens": "i32", "vocabulary": "i32",
            "D": "i32", "weight_stride": "i32", "out_stride": "i32",
        },
        constexprs={"BLOCK_M": 4, "BLOCK_D": 1024},
        num_stages=2,
        odd=("n_tokens",),
        ptx_has=(r"ld\.global[\w.]*\.v4\.b32", r"st\.global[\w.]*\.v4\.b32"),
    )
    for ids in ("*i32", "*i64")
]  # fmt: skip
