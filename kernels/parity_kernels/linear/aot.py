"""Which forms of the linears must compile for sm_90, and to which matrix instructions?"""

from __future__ import annotations

from parity_kernels.backend.aot import WGMMA_BF16, WGMMA_FP8, AotCase
from parity_kernels.linear.kernel import linear_bf16_kernel, linear_fp8_kernel
from parity_kernels.linear.launch import IMPRECISE_K, compile_options

_NO_OTHER_DOT = (r"mma[\w.]*\.tf32", r"mma[\w.]*\.f16", r"\.f64")


def _fp8(name: str, tile_m: int, tile_n: int, odd: tuple[str, ...] = ()) -> AotCase:
    return AotCase(
        name=name,
        kernel=linear_fp8_kernel,
        signature={
            "q_ptr": "*fp8e4nv", "s_ptr": "*fp32", "weight_ptr": "*fp8e4nv", "scale_ptr": "*fp32", "out_ptr": "*bf16",
            "T": "i32", "N": "i32", "K": "i32", "N_GROUPS": "i32", "out_stride": "i32",
        },
        constexprs={"IMPRECISE_K": IMPRECISE_K, "BLOCK_M": tile_m, "BLOCK_N": tile_n},
        odd=("T", "N_GROUPS", *odd),
        ptx_has=(WGMMA_FP8,),
        ptx_lacks=(*_NO_OTHER_DOT, r"mma[\w.]*\.bf16"),
        num_warps=compile_options(tile_m)["num_warps"],
        num_stages=compile_options(tile_m)["num_stages"],
    )  # fmt: skip


def _bf16(name: str, tile_m: int, tile_n: int, out: str) -> AotCase:
    return AotCase(
        name=name,
        kernel=linear_bf16_kernel,
        signature={
            "x_ptr": "*bf16", "weight_ptr": "*bf16", "out_ptr": out, "T": "i32", "N": "i32", "K": "i32",
            "x_stride": "i32", "weight_stride": "i32", "out_stride": "i32",
        },
        constexprs={"BLOCK_M": tile_m, "BLOCK_N": tile_n, "BLOCK_K": 64},
        odd=("T",),
        ptx_has=(WGMMA_BF16,),
        ptx_lacks=(*_NO_OTHER_DOT, r"e4m3"),
        num_warps=compile_options(tile_m)["num_warps"],
        num_stages=compile_options(tile_m)["num_stages"],
    )  # fmt: skip


AOT = [
    _fp8("linear_fp8_decode", 64, 32),
    _fp8("linear_fp8_middle", 64, 128),
    _fp8("linear_fp8_prefill", 128, 128),
    _fp8("linear_fp8_odd_sizes", 128, 128, ("N", "K", "out_stride")),
    _bf16("linear_bf16_decode", 64, 32, "*bf16"),
    _bf16("linear_bf16_middle", 64, 128, "*bf16"),
    _bf16("linear_bf16_prefill", 128, 128, "*bf16"),
    _bf16("linear_bf16_head_decode", 64, 128, "*fp32"),
    _bf16("linear_bf16_head_prefill", 128, 128, "*fp32"),
]
