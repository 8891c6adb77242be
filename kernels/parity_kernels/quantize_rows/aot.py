"""Which forms of the quantization of rows must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import AotCase
from parity_kernels.quantize_rows.kernel import quantize_rows_kernel

AOT = [
    AotCase(
        name="quantize_rows",
        kernel=quantize_rows_kernel,
        signature={
            "x_ptr": "*bf16", "q_ptr": "*fp8e4nv", "s_ptr": "*fp32", "n_rows": "i32", "x_stride": "i32", "K": "i32",
            "N_GROUPS": "i32",
        },
        constexprs={"BLOCK_M": 4, "BLOCK_G": 4},
        odd=("n_rows", "N_GROUPS"),
        ptx_has=(r"cvt\.rn\.satfinite\.e4m3x2\.f32", r"div\.rn\.f32"),
        ptx_lacks=(r"div\.full", r"\.f64"),
    ),
]  # fmt: skip
