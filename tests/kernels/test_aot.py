"""Does every kernel compile for sm_90, to the instructions it was written for, and its probes to nothing when off?

Compilation runs in a child process with TRITON_INTERPRET=0 (interpreted and compiled kernels cannot share one).
Needs no GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity_kernels.backend import aot, ptx

ROOT = Path(__file__).parents[2]


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "0"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, text=True, capture_output=True, check=False, cwd=ROOT
    )


@pytest.fixture(scope="module")
def report() -> dict:
    """What `parity_kernels.backend.aot_main` prints for the whole package."""
    done = _child("-m", "parity_kernels.backend.aot_main")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_has_a_case(report: dict) -> None:
    assert report["uncovered"] == []
    kernels = {name for name in aot.jit_functions() if name.endswith("_kernel")}
    assert {entry["kernel"] for entry in report["cases"].values()} == kernels


def test_every_case_compiles_to_what_it_demands(report: dict) -> None:
    complaints = {name: entry["complaints"] for name, entry in report["cases"].items() if entry["complaints"]}
    assert complaints == {}
    assert all(entry["cubin_bytes"] > 0 for entry in report["cases"].values())


def test_matrix_instructions_are_demanded_of_every_gemm() -> None:
    """The demand is in the tables; that the tables make it is checked here, by name."""
    tables = {path.parent.name: path.read_text() for path in (ROOT / "kernels/parity_kernels").glob("*/aot.py")}
    for op in ("linear", "grouped_gemm"):
        assert "WGMMA_FP8" in tables[op]
        assert "WGMMA_BF16" in tables[op]
    assert "BF16" in tables["attention"]
    assert "BF16" in tables["router"]


def test_probes_off_is_a_kernel_without_probes(report: dict) -> None:
    probed = {name: entry["probes"] for name, entry in report["cases"].items() if "probes" in entry}
    assert any(name.startswith("qk_norm_rope") for name in probed)
    assert any(name.startswith("router") for name in probed)
    assert any(name.startswith("silu_mul_quant") for name in probed)
    assert all(all(entry.values()) for entry in probed.values()), probed


def test_a_kernel_whose_probe_costs_something_when_off_is_seen() -> None:
    """Planted: an add outside the `if`, marked as probe, so that the stripped kernel lacks it."""
    assert _planted("x = x + 1.0  # probe") == {"off_equals_stripped": False, "on_differs": True}
    assert _planted("pass") == {"off_equals_stripped": True, "on_differs": True}


def test_widened_fp8_operands_are_seen() -> None:
    """Planted: the incident of `IMPRECISE_K = 0`, for which Triton widens fp8 to fp16 without a word."""
    done = _child("-c", _WIDENED)
    assert done.returncode == 0, done.stderr
    complaints = json.loads(done.stdout)
    assert any(line.startswith("lacks") for line in complaints)
    assert any("f16" in line and line.startswith("contains") for line in complaints)


def test_a_kernel_without_a_case_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: one more kernel and a device function that nobody calls."""
    functions = {
        "a_kernel": ("a.py", "def a_kernel(): helper(1)"),
        "helper": ("a.py", "def helper(x): deeper(x)"),
        "deeper": ("a.py", "def deeper(x): return x"),
        "lonely": ("a.py", "def lonely(x): return x"),
        "b_kernel": ("b.py", "def b_kernel(): lonely_not()"),
    }
    monkeypatch.setattr(aot, "jit_functions", lambda: functions)

    def a_kernel() -> None: ...

    assert aot.uncovered([aot.AotCase(name="a", kernel=a_kernel, signature={})]) == ["b_kernel", "lonely"]


def test_normalized_ptx_keeps_code_and_drops_line_information() -> None:
    text = "// made\n.file 1 'a.py'\n.loc 1 2 3\nadd.f32 %f1, %f2, %f3; // here\n$L__tmp3:\n.section .debug_x\nb"
    assert ptx.normalized(text) == "add.f32 %f1, %f2, %f3;"


def _planted(line: str) -> dict[str, bool]:
    done = _child("-c", _PLANT.format(line=line))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


_PLANT = """
import importlib.util, json, pathlib, sys, tempfile
import parity_kernels.backend
from parity_kernels.backend.aot import AotCase
from parity_kernels.backend.ptx import probe_report
path = pathlib.Path(tempfile.mkdtemp()) / "planted_kernel.py"
path.write_text('''
import triton
import triton.language as tl
@triton.jit
def planted_kernel(src, dst, seen, N: tl.constexpr):
    at = tl.arange(0, N)
    x = tl.load(src + at)
    {line}
    if seen is not None:  # probe
        tl.store(seen + at, x)  # probe
    tl.store(dst + at, x * 2.0)
''')
spec = importlib.util.spec_from_file_location("planted_kernel", path)
module = importlib.util.module_from_spec(spec)
sys.modules["planted_kernel"] = module
spec.loader.exec_module(module)
pointers = {{"src": "*fp32", "dst": "*fp32"}}
case = AotCase("planted", module.planted_kernel, pointers, {{"N": 128}}, probes={{"seen": "*fp32"}})
print(json.dumps(probe_report(case)))
"""

_WIDENED = """
import json
from dataclasses import replace
import parity_kernels.backend
from parity_kernels.backend.aot import compile_case
from parity_kernels.linear.aot import AOT
case = next(case for case in AOT if case.name == "linear_fp8_prefill")
case = replace(case, constexprs={**case.constexprs, "IMPRECISE_K": 0})
print(json.dumps(compile_case(case).complaints()))
"""
