"""Which forms of add + RMSNorm must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.add_rmsnorm.kernel import add_rmsnorm_kernel
from parity_kernels.add_rmsnorm.launch import warps_for
from parity_kernels.backend.aot import AotCase

_COMMON = {
    "x_ptr": "*bf16", "weight_ptr": "*bf16", "out_ptr": "*bf16", "n_rows": "i32", "x_stride": "i32",
    "residual_stride": "i32", "out_stride": "i32", "sum_stride": "i32", "eps": "fp32",
}  # fmt: skip

AOT = [
    AotCase(
        name=f"{'add_' if add else ''}rmsnorm_{hidden}",
        kernel=add_rmsnorm_kernel,
        signature={**_COMMON, **({"residual_ptr": "*bf16", "sum_ptr": "*bf16"} if add else {})},
        constexprs={
            "D": hidden, "BLOCK_M": 1, "BLOCK_D": width, **({} if add else {"residual_ptr": None, "sum_ptr": None}),
        },
        num_warps=warps_for(width),
        odd=("n_rows",),
        ptx_has=(r"rsqrt\.approx", r"ld\.global[\w.]*\.v4\.b32"),
        ptx_lacks=(r"\.f64",),
    )
    for add in (True, False)
    for hidden, width in ((2048, 2048), (384, 512))
]  # fmt: skip
