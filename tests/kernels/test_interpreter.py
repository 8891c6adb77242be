"""Does the interpreter's self-test pass, and does each of its checks see the defect it is there for?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.errors import RunnerError
from parity_kernels.backend import interpreted, selftest
from parity_kernels.backend.blocks import thin, tile_of

ROOT = Path(__file__).parents[2]
interpreted_only = pytest.mark.skipif(not interpreted(), reason="kernels are compiled here: nothing is interpreted")


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type, pytest.MonkeyPatch]]:
    """The interpreter's builder, to plant a defect in, and a self-test that has not run yet."""
    from triton.runtime.interpreter import InterpreterBuilder

    selftest.verify_interpreter.cache_clear()
    yield InterpreterBuilder, monkeypatch
    monkeypatch.undo()
    selftest.verify_interpreter.cache_clear()


@interpreted_only
@pytest.mark.parametrize("name", selftest.CHECKS)
def test_each_check_passes(name: str) -> None:
    assert selftest.CHECKS[name]() == ""


@interpreted_only
def test_verification_runs_once_and_passes() -> None:
    selftest.verify_interpreter.cache_clear()
    selftest.verify_interpreter()
    selftest.verify_interpreter()
    assert selftest.verify_interpreter.cache_info().misses == 1


@interpreted_only
def test_truncating_cast_to_bf16_is_seen(builder) -> None:
    target, patch = builder
    right = target.cast_impl

    def truncate(self, src, dst_type):
        if src.dtype.scalar.name == "fp32" and dst_type.scalar.name == "bf16":
            src.data = (src.data.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # the stock defect
        return right(self, src, dst_type)

    patch.setattr(target, "cast_impl", truncate)
    assert "wrong" in selftest.check_fp32_to_bf16()
    with pytest.raises(RunnerError, match="fp32 to bf16"):
        selftest.verify_interpreter()


@interpreted_only
def test_fp8_overflow_to_nan_is_seen(builder) -> None:
    target, patch = builder
    right = target.create_fp_to_fp

    def overflow(self, src, dst_type, mode):
        result = right(self, src, dst_type, mode)
        if dst_type.scalar.name == "fp8e4nv":  # ml_dtypes' own cast: NaN past 464
            result.data = src.data.astype(result.data.dtype)
        return result

    patch.setattr(target, "create_fp_to_fp", overflow)
    assert "nan" in selftest.check_fp32_to_e4m3()


@interpreted_only
def test_dot_of_bit_patterns_is_seen(builder) -> None:
    target, patch = builder
    right = target.create_dot

    def patterns(self, a, b, d, precision, imprecise):
        if a.dtype.scalar.name != "bf16":
            return right(self, a, b, d, precision, imprecise)
        left, other = (x.data.view(np.uint16).astype(np.float32) for x in (a, b))  # the stock defect
        return type(d)(left @ other + d.data, d.dtype.scalar)

    patch.setattr(target, "create_dot", patterns)
    assert "bfloat16" in selftest.check_dot()


@interpreted_only
def test_store_that_ignores_its_mask_is_seen(builder) -> None:
    from triton.runtime.interpreter import TensorHandle

    target, patch = builder
    right = target.create_masked_store

    def unmasked(self, ptrs, value, mask, *policy):
        return right(self, ptrs, value, TensorHandle(np.ones_like(mask.data), mask.dtype), *policy)

    patch.setattr(target, "create_masked_store", unmasked)
    assert "masked store" in selftest.check_bf16_arithmetic()
    assert "tile" in selftest.check_tiles()


@interpreted_only
def test_load_that_forgets_other_is_seen(builder) -> None:
    target, patch = builder
    right = target.create_masked_load
    patch.setattr(target, "create_masked_load", lambda self, p, m, other, *rest: right(self, p, m, None, *rest))
    assert selftest.check_masked_sum() != ""
    assert "tile" in selftest.check_tiles()


def test_e4m3_table_is_the_formats() -> None:
    """Against torch's decoder: the table that the checks expect is itself checked."""
    decoded = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
    assert np.array_equal(selftest.e4m3_values(), decoded)


def test_a_tile_store_that_names_an_address_twice_is_left_to_the_ordered_path() -> None:
    base, ok = np.zeros(64, dtype=np.uint16), np.ones(4, dtype=bool)
    address = base.ctypes.data
    cols = np.arange(4) * 2
    for rows, regular in (
        (np.arange(4) * 8, True),
        (np.array([0, 40, 8, 90]), True),
        (np.arange(4) * 2, False),
        (np.zeros(4), False),
        (np.array([0, 40, 46, 90]), False),
    ):
        addresses = (address + rows).astype(np.uint64)
        tile = tile_of(addresses, cols.astype(np.uint64), ok, ok, base.dtype, storing=True)
        assert (tile is not None) == regular
        assert tile_of(addresses, cols.astype(np.uint64), ok, ok, base.dtype, storing=False) is not None


def test_thin_keeps_values() -> None:
    column = np.broadcast_to(np.arange(5)[:, None], (5, 7))
    assert thin(column).shape == (5, 1)
    assert thin(np.zeros((3, 4))).shape == (3, 4)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    kept |= {"PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code], env=kept, text=True, capture_output=True, check=False)


@interpreted_only
def test_triton_imported_for_compiling_is_refused_with_the_remedy() -> None:
    done = _python("import triton.language; import parity_kernels.backend")
    assert done.returncode == 1
    assert "UsageError" in done.stderr
    assert "TRITON_INTERPRET=1" in done.stderr


@interpreted_only
def test_a_set_variable_is_respected() -> None:
    code = "import parity_kernels.backend as b; print(b.interpreted(), b.environment_facts()['backend'])"
    assert _python(code, TRITON_INTERPRET="0").stdout.split() == ["False", "triton-compiled"]
    assert _python(code).stdout.split() == ["True", "triton-interpreter"]
