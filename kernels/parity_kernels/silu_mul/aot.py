"""Which forms of silu(gate) * up must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import AotCase
from parity_kernels.silu_mul.kernel import silu_mul_kernel, silu_mul_quant_kernel

_SIZES = {"n_rows": "i32", "row_stride": "i32", "part_stride": "i32"}

AOT = [
    *(
        AotCase(
            name=f"silu_mul_quant_{width}",
            kernel=silu_mul_quant_kernel,
            signature={"gate_up_ptr": "*bf16", "q_ptr": "*fp8e4nv", "scale_ptr": "*fp32", **_SIZES},
            constexprs={"F": width, "BLOCK_R": 16},
            num_warps=4,
            # Round to nearest with saturation, and the correctly rounded division: the recipe's rounding points.
            ptx_has=(r"cvt\.rn\.satfinite\.e4m3x2\.f32", r"div\.rn\.f32"),
            ptx_lacks=(r"\.f64",),
            probes={"act_ptr": "*bf16"},
            odd=("n_rows",),
        )
        for width in (768, 160)
    ),
    AotCase(
        name="silu_mul",
        kernel=silu_mul_kernel,
        signature={"gate_up_ptr": "*bf16", "act_ptr": "*bf16", **_SIZES},
        constexprs={"F": 160, "BLOCK_R": 16, "BLOCK_F": 128},
        num_warps=4,
        ptx_lacks=(r"\.f64",),
        odd=("n_rows",),
    ),
]
