"""Does a comparison hold less than 256 MB besides the files, whatever their size?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.trace import MemoryTrace, save_trace

LIMIT = 256

TRACES = """
import resource, sys
from parity.compare import compare_paths
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
small, big, floor = sys.argv[1:]
compare_paths(oracle=small, sut=small, floor=floor or None)
before = peak()
summary = compare_paths(oracle=big, sut=big + "-sut", floor=floor or None)
told = ",".join(f"{c.verdict.value} {c.rows} {c.worst[0].where}" for c in summary.comparisons)
print(told, peak() - before, sep=";")
"""

FILES = """
import resource, sys
from parity.compare import compare_files
from parity.floor import derive_floor
floor = derive_floor(sys.argv[3]) if sys.argv[3] else None
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
compare_files(oracle=sys.argv[2], sut=sys.argv[2], floor=floor)  # libraries are loaded, the kernel is built
before = peak()
(record,) = compare_files(oracle=sys.argv[1], sut=sys.argv[1], floor=floor).comparisons
print(record.verdict.value, peak() - before)
"""


def write(path: Path, shape: list[int]) -> str:
    """A sparse file of one bf16 tensor of zeros."""
    size = 2 * shape[0] * shape[1]
    header = json.dumps({"t": {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    return str(path)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kilobytes on Linux only")
@pytest.mark.parametrize("floor", ["", "derived:bfloat16"])
@pytest.mark.parametrize("shape", [[1 << 15, 1 << 13], [1 << 20, 16]])
def test_peak_memory_of_stored_tensors(tmp_path, shape, floor):
    """Mapped pages count while they are in memory: 512 MiB a side is over the limit if they stay."""
    big, small = write(tmp_path / "big.safetensors", shape), write(tmp_path / "small.safetensors", [8, 16])
    done = subprocess.run(
        [sys.executable, "-c", FILES, big, small, floor], capture_output=True, text=True, check=True, timeout=200
    )
    verdict, grown = done.stdout.split()
    assert verdict == "MATCH"
    assert int(grown) < LIMIT


def write_trace(folder: Path, rows: int, *, spoilt: int | None = None) -> str:
    """One stage of some rows of 8 values: a prefill in two captures, and the last row a decode step."""
    values = torch.arange(8, dtype=torch.float32).bfloat16().expand(rows, 8).clone()
    if spoilt is not None:
        values[spoilt] = values[spoilt] * 1.5
    captures, tensors = [], {}
    for number, (first, last) in enumerate([(0, rows // 3), (rows // 3, rows - 1), (rows - 1, rows)]):
        at = Rows(np.zeros(last - first, np.int32), np.arange(first, last, dtype=np.int64))
        phase = ("prefill", number, 0) if last < rows else ("decode", 1, 0)
        tensors[number] = values[first:last]
        axes, shape = ("T", "D"), (last - first, 8)
        captures.append(Capture(number, "resid.out", 0, phase[0], *phase[1:], axes, "bfloat16", shape, at))
    recipe = Recipe("bf16", "bf16", "bf16", "fp32", "fp32", "bf16", "bf16")
    environment = Environment("3", "2", None, None, "test", "none", 1, "cpu", False)
    run = Run("qwen3_moe", "m", 1, ("p",), ((1, 2),), recipe, Lineage("r"), environment, ((0, "resid.out"),))
    save_trace(folder, MemoryTrace(run, tuple(captures), tensors))
    return str(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kilobytes on Linux only")
@pytest.mark.parametrize("floor", ["", "derived:bfloat16"])
def test_peak_memory_of_traces_of_a_million_rows(tmp_path, floor):
    """A row costs some 700 bytes while it is judged: all at once they would take 700 MB."""
    rows, spoilt = 1_000_003, 777_777
    small, big = write_trace(tmp_path / "small", 100), write_trace(tmp_path / "big", rows)
    write_trace(tmp_path / "big-sut", rows, spoilt=spoilt)
    done = subprocess.run(
        [sys.executable, "-c", TRACES, small, big, floor], capture_output=True, text=True, check=True, timeout=500
    )
    told, grown = done.stdout.strip().split(";")
    verdict = "EXCEEDS_FLOOR" if floor else "NO_FLOOR"
    # The three payload files, 16 MB a side, are mapped and stay.
    assert told.split(",") == [f"{verdict} {rows - 1} position {spoilt}", "MATCH 1 position 1000002"]
    assert int(grown) < LIMIT
