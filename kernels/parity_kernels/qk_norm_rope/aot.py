"""Which forms of q/k norm and rope must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import AotCase
from parity_kernels.qk_norm_rope.kernel import qk_norm_rope_kernel

_STRIDES = [
    f"{tensor}_stride_{axis}" for tensor in ("q", "k", "q_norm", "k_norm", "q_out", "k_out") for axis in ("t", "h")
]

AOT = [
    AotCase(
        name=f"qk_norm_rope_{head_dim}",
        kernel=qk_norm_rope_kernel,
        signature={
            "q_ptr": "*bf16", "k_ptr": "*bf16", "q_weight_ptr": "*bf16", "k_weight_ptr": "*bf16",
            "positions_ptr": positions, "inv_freq_ptr": "*fp32", "q_out_ptr": "*bf16", "k_out_ptr": "*bf16",
            "n_tokens": "i32", "H": "i32", "G": "i32", **dict.fromkeys(_STRIDES, "i32"), "eps": "fp32",
        },
        constexprs={"K": head_dim, "BLOCK_M": 512 // (head_dim // 2), "BLOCK_J": head_dim // 2},
        odd=("n_tokens", "H", "G"),
        probes={"q_norm_ptr": "*bf16", "k_norm_ptr": "*bf16"},
        ptx_has=(r"rsqrt\.approx",),
    )
    for head_dim, positions in ((128, "*i64"), (64, "*i32"))
]  # fmt: skip
