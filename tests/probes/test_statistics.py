"""Are the statistics those of the tensor, whatever its dtype, chunks and bad values?"""

# Several statements under `raises` on purpose: the block is the forward pass that must fail.
# ruff: noqa: PT012

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import ProbeError
from parity.probes import CapturePlan, Recorder
from parity.probes.statistics import Statistics, measure
from parity.records import Rows

# Moments in fp64 of at most 2^12 values that fp64 holds exactly, against numpy's in fp64: both round each of n
# additions once, so they differ by less than n * 2^-52 = 1e-12 of the sum of magnitudes.
RTOL = 1e-12


def statistics_of(*tensors: torch.Tensor) -> dict[str, Any]:
    found = Statistics()
    for tensor in tensors:
        key = (0, "attn.norm", "prefill", 0)
        found.add(key, rows=tensor.shape[0], numel=tensor.numel(), moments=measure(tensor).tolist())
    (record,) = found.records()
    return record


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int32]
)
@pytest.mark.parametrize("parts", [1, 3])
def test_against_numpy(dtype: torch.dtype, parts: int) -> None:
    values = (torch.randn(60, 32, generator=torch.Generator().manual_seed(2)) * 10 + 100).to(dtype)
    values[7, 3] = 0
    found = statistics_of(*values.chunk(parts))
    exact = values.float().double().numpy() if dtype.itemsize == 1 else values.double().numpy()
    assert found["count"] == exact.size
    assert found["rows"] == 60
    assert found["mean"] == pytest.approx(exact.mean(), rel=RTOL)
    assert found["std"] == pytest.approx(exact.std(), rel=1e-10)  # a difference of values 10 times its size
    assert found["l2"] == pytest.approx(math.sqrt((exact**2).sum()), rel=RTOL)
    assert (found["min"], found["max"], found["zeros"]) == (exact.min(), exact.max(), (exact == 0).sum())


def test_bf16_sums_do_not_stall() -> None:
    # Summed in bf16, 4096 ones stop at 256; the defect that fp64 accumulation is there to avoid.
    found = statistics_of(torch.ones(4096, 1).bfloat16())
    assert (found["mean"], found["std"], found["l2"]) == (1.0, 0.0, 64.0)


def test_bad_values_are_counted_and_do_not_hide_the_rest() -> None:
    tensor = torch.tensor([[1.0, 2.0, math.nan], [math.inf, -math.inf, 3.0]])
    found = statistics_of(tensor)
    assert found["nonfinite"] == 3
    assert (found["mean"], found["min"], found["max"]) == (2.0, 1.0, 3.0)
    nothing = statistics_of(torch.full((2, 2), math.nan))
    assert nothing["nonfinite"] == 4
    assert nothing["mean"] is None
    merged = statistics_of(torch.full((2, 2), math.nan), tensor)
    assert (merged["mean"], merged["nonfinite"], merged["count"]) == (2.0, 7, 10)


def test_merged_chunks_equal_the_whole(engine: Any) -> None:
    found = {}
    for chunk in (9, 2):
        recorder = Recorder(CapturePlan(mode="stats"), engine.run((5, 6, 7, 8, 9, 10, 11, 12, 13)))
        with recorder:
            engine.forward(recorder, recorder.run, chunk=chunk)
        found[chunk] = {(r["layer"], r["stage"]): r for r in recorder.statistics()}
    assert found[9].keys() == found[2].keys()
    for key, whole in found[9].items():
        for name in ("mean", "std", "l2", "min", "max", "count", "zeros"):
            # Sums of at most 2^10 terms in another order; a mean may be near zero, so measure against the deviation.
            assert found[2][key][name] == pytest.approx(whole[name], rel=1e-11, abs=1e-12 * whole["std"])


def test_the_file(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(CapturePlan(mode="stats", tokens="last", out=tmp_path / "s"), engine.run((5, 6, 7, 8, 9)))
    with recorder:
        engine.forward(recorder, recorder.run, decode=1)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["stats.json"]
    value = json.loads((tmp_path / "s" / "stats.json").read_text())
    assert (value["format"], value["version"], value["complete"]) == ("parity-stats", 1, True)
    assert value["run"]["requests"] == [[5, 6, 7, 8, 9]]
    # 10 sites, prefill and one decode step.
    assert len(value["statistics"]) == 20
    assert {r["rows"] for r in value["statistics"] if r["stage"] == "moe.gate"} == {2}
    assert value["statistics"] == recorder.statistics()
    with pytest.raises(ProbeError, match="keeps no tensors"):
        recorder.trace()


def test_a_failed_run_says_so(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(CapturePlan(mode="stats", out=tmp_path), engine.run((5,)))
    with pytest.raises(KeyError), recorder:
        rows = Rows(np.zeros(1, np.int32), np.zeros(1, np.int64))
        recorder.step(phase="prefill", step=0, rows=rows)("embed.out", torch.full((1, 6), math.inf))
        raise KeyError
    value = json.loads((tmp_path / "stats.json").read_text())
    assert not value["complete"]
    assert value["statistics"][0]["nonfinite"] == 6
