"""How is Triton's interpreter made exact for bf16 and fp8?

Stock interpreters (3.6 and 3.9 tried) keep bf16 and fp8 as unsigned integers: fp32 -> bf16 truncates, fp32 -> e4m3
loses mantissa carries, bf16 add, compare and dot act on bit patterns, and none of it raises. `install()` gives the
interpreter ml_dtypes' arrays instead and replaces its casts, dot, loads and stores.

Every name patched here is private to Triton, so nothing rests on this file alone: `backend.selftest` decides whether
interpreted results count.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from parity.errors import RunnerError, UsageError
from parity_kernels.backend import blocks, frontend
from parity_kernels.backend.device import INTERPRET_VARIABLE, interpreted

_installed = False
_FUNCTIONS = ("_get_np_dtype", "_convert_float", "_patch_lang", "_patch_lang_tensor")
_METHODS = (
    "cast_impl", "create_fp_to_fp", "create_dot", "create_clampf", "create_masked_load", "create_masked_store",
    "create_load", "create_store", "create_splat", "create_addptr", "binary_op",
)  # fmt: skip


def install() -> None:
    """Patch the interpreter of the imported Triton. Does nothing the second time, or when kernels are compiled.

    Raises UsageError when Triton was imported for compiling although this process is to interpret, RunnerError when a
    private name that is to be replaced does not exist in this version of Triton.
    """
    global _installed
    if _installed or not interpreted() or importlib.util.find_spec("triton") is None:
        return  # without triton the import of the first op says so
    _refuse_triton_imported_for_compiling()
    import triton.runtime.interpreter as target

    builder = target.InterpreterBuilder
    for owner, name in [(target, name) for name in _FUNCTIONS] + [(builder, name) for name in _METHODS]:
        if not hasattr(owner, name):
            raise RunnerError(
                place=f"triton.runtime.interpreter.{name}",
                expected="a name that the exactness shim replaces (triton 3.6 and 3.9 have it)",
                found="no such name in the installed triton",
                next_step="Install a tested triton, or run on a CUDA device.",
            )
    _patch(target)
    _installed = True


def _refuse_triton_imported_for_compiling() -> None:
    triton = sys.modules.get("triton")
    standard = getattr(getattr(triton, "language", None), "standard", None)
    if standard is None:
        return
    if type(standard.sum).__name__ != "InterpretedFunction":
        raise UsageError(
            place="import of parity_kernels on a machine without a CUDA device",
            expected=f"{INTERPRET_VARIABLE}=1 in the environment before the first import of triton",
            found="triton already imported for compiling (by the program or by a library it uses)",
            next_step=f"Import parity_kernels.backend first, or start the process with {INTERPRET_VARIABLE}=1.",
        )


class _NothingToRestore:
    def restore(self) -> None:
        """Leave the patched names of triton.language in place."""


def _patch(target: Any) -> None:
    import ml_dtypes
    import triton.language as tl

    stock_np_dtype, stock_convert = target._get_np_dtype, target._convert_float
    builder, handle = target.InterpreterBuilder, target.TensorHandle
    stock_dot, stock_clamp, stock_cast = builder.create_dot, builder.create_clampf, builder.cast_impl
    stock_patch_tensor, stock_patch_lang = target._patch_lang_tensor, target._patch_lang
    bf16 = np.dtype(ml_dtypes.bfloat16)
    np_of = {  # by Triton's name of the element type (pointer types are not hashable)
        "bf16": bf16,
        "fp8e4nv": np.dtype(ml_dtypes.float8_e4m3fn),
        "fp8e5": np.dtype(ml_dtypes.float8_e5m2),
        "fp8e4b8": np.dtype(ml_dtypes.float8_e4m3fnuz),
        "fp8e5b16": np.dtype(ml_dtypes.float8_e5m2fnuz),
    }
    largest = {dtype: np.float32(ml_dtypes.finfo(dtype).max) for dtype in np_of.values() if dtype.itemsize == 1}
    foreign = frozenset(np_of.values())
    codes = np.arange(256, dtype=np.uint8)
    values = {dtype: codes.view(dtype).astype(np.float32) for dtype in largest}
    rtz = target._ir.ROUNDING_MODE.RTZ

    known = dict(np_of)  # stock builds its table anew for every one of the thousand calls of a launch

    def get_np_dtype(dtype: Any) -> np.dtype:
        name = dtype.scalar.name
        if name not in known:
            known[name] = stock_np_dtype(dtype)
        return known[name]

    def to_float32(data: np.ndarray) -> np.ndarray:
        if data.dtype == bf16:  # bf16 is the upper half of fp32; four times faster than astype
            return (data.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        if data.dtype in values:  # seven times faster than astype
            return values[data.dtype].take(data.view(np.uint8))
        return data.astype(np.float32)

    def convert(data: np.ndarray, dst: np.dtype, toward_zero: bool = False) -> np.ndarray:
        """Cast with round to nearest even; to fp8 with saturation, as PTX's cvt.rn.satfinite does. NaN stays NaN."""
        if dst == data.dtype:
            return data
        if data.dtype in foreign:
            data = to_float32(data)
        if toward_zero and dst == bf16:
            return (data.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(bf16)
        if toward_zero and dst.itemsize < data.itemsize:
            raise NotImplementedError(f"interpreter shim: rounding toward zero from {data.dtype} to {dst}")
        if dst in largest:
            data = np.clip(data.astype(np.float32), -largest[dst], largest[dst])
        return data.astype(dst)

    def convert_float(data: Any, src: Any, dst: Any, mode: Any) -> np.ndarray:
        if src.scalar.name in np_of or dst.scalar.name in np_of:
            return convert(data, get_np_dtype(dst), mode == rtz)
        return stock_convert(data, src, dst, mode)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar.name in np_of or dst_type.scalar.name in np_of:
            small = convert(blocks.thin(src.data), get_np_dtype(dst_type))
            return handle(np.broadcast_to(small, src.data.shape), dst_type.scalar)
        return stock_cast(self, src, dst_type)

    def create_fp_to_fp(self: Any, src: Any, dst_type: Any, mode: Any) -> Any:
        data = convert_float(src.data, src.dtype.scalar, dst_type.scalar, mode)
        return handle(data.view(get_np_dtype(dst_type)), dst_type.scalar)

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        if d.dtype.scalar == tl.float32 and a.dtype.scalar.is_floating():
            # Summed in fp64 and rounded to fp32 once a dot: a row's result then depends neither on the tile it is in
            # nor on the BLAS kernel that CPU and tile height select (in fp32 half the elements differed at 1 row).
            left, right = (to_float32(x.data).astype(np.float64) for x in (a, b))
            return handle(np.matmul(left, right).astype(np.float32) + d.data, d.dtype.scalar)
        return stock_dot(self, a, b, d, precision, imprecise)

    def create_clampf(self: Any, x: Any, low: Any, high: Any, nans: Any) -> Any:
        if x.data.dtype in foreign:  # numpy's clip has no loop for foreign dtypes; bf16 -> fp32 -> bf16 is exact here
            wide = [handle(to_float32(y.data), tl.float32) for y in (x, low, high)]
            return handle(convert(stock_clamp(self, *wide, nans).data, x.data.dtype), x.dtype.scalar)
        return stock_clamp(self, x, low, high, nans)

    def patch_lang_tensor(tensor: Any, *scope: Any) -> None:
        stock_patch_tensor(tensor, *scope)
        # 3.6 says int(array of one element), which numpy >= 2.4 refuses: run-time loop bounds would fail.
        tensor.__index__ = lambda self: int(self.handle.data.reshape(-1)[0])

    patched: set[frozenset[str]] = set()

    def patch_lang(fn: Any) -> Any:
        # Stock patches triton.language before every launch and call and restores it after. Nothing is compiled in this
        # process, so once is enough: it was 0.3 of the 0.35 ms of an empty launch and most of the cost of a reduction.
        key = frozenset(name for name, value in fn.__globals__.items() if value is tl or value is tl.core)
        if key not in patched:
            stock_patch_lang(fn)
            patched.add(key)
        return _NothingToRestore()

    stock_launch = target.GridExecutor.__call__

    def launch_quietly(self: Any, *args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):  # NaN, infinity and underflow are results of a kernel, not accidents of numpy
            return stock_launch(self, *args, **kwargs)

    target.GridExecutor.__call__ = launch_quietly
    # An int32 that overflows is as wrong on the GPU, unseen; the check costs a fifth of a small op.
    target.interpreter_builder.options = replace(target.interpreter_builder.options, sanitize_overflow=False)
    target._get_np_dtype = get_np_dtype
    target._patch_lang = patch_lang
    target._convert_float = convert_float
    target._patch_lang_tensor = patch_lang_tensor
    builder.cast_impl = cast_impl
    builder.create_fp_to_fp = create_fp_to_fp
    builder.create_dot = create_dot
    builder.create_clampf = create_clampf
    blocks.install(target, get_np_dtype, foreign)
    frontend.install(tl.core, type(target.interpreter_semantic))
