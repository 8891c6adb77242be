"""Are compilation and CUDA graphs knobs that are turned, and seen to be turned, on a GPU and without one?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.climb import Case
from parity.climb.bench import Bench
from parity.climb.counted import Counted
from parity.climb.knobs import Knob, turn_knobs
from parity.runner import open_runner

ON_CPU = {"dtype": "bfloat16", "compile": "aot_eager"}
IN_GRAPHS = {"dtype": "bfloat16", "compile": "inductor", "mode": "reduce-overhead", "device": "cuda"}

pytestmark = pytest.mark.long


def turned(case: Case, model: Path, oracle: Any, folder: Path, options: Mapping[str, str]) -> dict[str, Knob]:
    """Every knob of HF's model as PyTorch runs it, by `option=value`; each in an engine that is opened anew."""
    spec = f"torch:{model}"
    bench = Bench(
        replace(case, sut=spec, sut_options=options), folder, sut=Counted(open_runner(spec, **options)), oracle=oracle,
        emulation=None, floor=None,
    )  # fmt: skip
    return {f"{one.op}={one.path}": one for one in turn_knobs(bench)}


@pytest.mark.timeout(900)
def test_compilation_is_a_knob(case: Case, bf16_model: Path, exact: Any, tmp_path: Path):
    knobs = turned(case, bf16_model, exact, tmp_path, ON_CPU)
    assert {"compile=none", "compile=inductor", "attention=sdpa", "dtype=float32"} <= set(knobs)
    assert not [name for name in knobs if name.startswith("mode=")], "there are no CUDA graphs without a GPU"
    assert knobs["compile=none"].shown == "the run says compile none, and aot_eager before"
    # aot_eager runs the very operations that it traced.
    assert (knobs["compile=none"].verdict, knobs["compile=none"].sites_changed) == ("no change", 0)
    exact_one = knobs["dtype=float32"]
    assert exact_one.shown.startswith("the run says")
    nearer = [exact_one.after[name] < exact_one.before[name] / 100 for name in exact_one.before]
    assert all(nearer), "FP32 rounds 2^16 times finer than BF16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.timeout(900)
def test_cuda_graphs_are_a_knob(case: Case, bf16_model: Path, exact: Any, tmp_path: Path):
    knobs = turned(case, bf16_model, exact, tmp_path, IN_GRAPHS)
    assert {"mode=default", "compile=none", "attention=sdpa"} <= set(knobs)
    for name in ("mode=default", "compile=none", "attention=sdpa"):
        assert knobs[name].verdict not in ("failed", "not shown to take effect"), knobs[name].sentence
    assert knobs["mode=default"].shown == "the run says mode default, and reduce-overhead before"
    # A graph replays the kernels that were recorded into it: nothing that it does may move a layer beyond rounding.
    assert knobs["mode=default"].verdict == "no change", knobs["mode=default"].sentence
