"""Which forms of the router must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import ANY_BF16, AotCase
from parity_kernels.router.kernel import router_kernel

AOT = [
    AotCase(
        name=name,
        kernel=router_kernel,
        signature={
            "x_ptr": "*bf16", "weight_ptr": "*bf16", "ids_ptr": "*i32", "weights_ptr": "*fp32", "n_tokens": "i32",
            "x_stride": "i32",
        },
        constexprs={
            "D": hidden, "E": experts, "EP": padded, "S": top_k, "SP": top_k, "RENORMALIZE": True, "BLOCK_T": 32,
            "BLOCK_D": 128,
        },
        num_warps=4,
        num_stages=2,
        ptx_has=(ANY_BF16,),
        ptx_lacks=(r"\.f64",),
        probes={"logits_ptr": "*fp32"},
        odd=("n_tokens",),
    )
    for name, hidden, experts, padded, top_k in (("router", 2048, 128, 128, 8), ("router_edges", 384, 12, 16, 2))
]  # fmt: skip
