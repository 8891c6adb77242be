"""Which forms of the grouped GEMM must compile for sm_90?"""

from __future__ import annotations

from parity_kernels.backend.aot import WGMMA_BF16, WGMMA_FP8, AotCase
from parity_kernels.grouped_gemm.kernel import grouped_gemm_bf16_kernel, grouped_gemm_fp8_kernel

_ROWS = {"expert_offsets_ptr": "*i32", "row_index_ptr": "*i32", "n_x_rows": "i32", "n_rows": "i32", "x_stride": "i32"}
_FP8 = {"x_ptr": "*fp8e4nv", "x_scale_ptr": "*fp32", "weight_ptr": "*fp8e4nv", "weight_scale_ptr": "*fp32"}
_BF16 = {"x_ptr": "*bf16", "weight_ptr": "*bf16"}
_SHAPES = (  # name, parts, columns, depth, rows gathered
    ("gate_up", 2, 768, 2048, True),
    ("down", 1, 2048, 768, False),
    ("gate_up_edges", 2, 160, 384, True),
    ("down_edges", 1, 384, 160, False),
)


def _rows(gathered: bool) -> dict[str, str]:
    return {name: kind for name, kind in _ROWS.items() if gathered or name != "row_index_ptr"}


def _constants(parts: int, columns: int, depth: int, gathered: bool) -> dict[str, object]:
    off = {} if gathered else {"row_index_ptr": None}
    return {"P": parts, "N": columns, "K": depth, "BLOCK_M": 64, "BLOCK_N": 128, **off}


AOT = [
    *(
        AotCase(
            name=f"grouped_gemm_fp8_{name}",
            kernel=grouped_gemm_fp8_kernel,
            signature={**_FP8, "out_ptr": "*bf16", **_rows(gathered), "x_scale_stride": "i32"},
            constexprs=_constants(parts, columns, depth, gathered),
            num_warps=4,
            num_stages=4,
            ptx_has=(WGMMA_FP8, r"cp\.async"),
            ptx_lacks=(r"\.f64",),
            odd=("n_x_rows", "n_rows", "x_scale_stride"),
        )
        for name, parts, columns, depth, gathered in _SHAPES
    ),
    *(
        AotCase(
            name=f"grouped_gemm_bf16_{name}",
            kernel=grouped_gemm_bf16_kernel,
            signature={**_BF16, "out_ptr": "*bf16", **_rows(gathered)},
            constexprs={**_constants(parts, columns, depth, gathered), "BLOCK_K": 64},
            num_warps=4,
            num_stages=4,
            ptx_has=(WGMMA_BF16, r"cp\.async"),
            ptx_lacks=(r"\.f64",),
            odd=("n_x_rows", "n_rows"),
        )
        for name, parts, columns, depth, gathered in _SHAPES
    ),
]
