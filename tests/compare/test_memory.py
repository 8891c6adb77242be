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
from parity.stages import term
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

ROUTES = TRACES.replace(
    """f"{c.verdict.value} {c.rows} {c.worst[0].where}\"""",
    """f"{c.name[4:]} {c.verdict.value} {c.rows} flips {c.whole.get('flips', 0):.0f}"
    f" overlap {c.whole.get('overlap', 0):.9f}\"""",
)

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
@pytest.mark.parametrize("shape", [[1 << 15, 1 << 13], [1 << 20, 16], [1, 1 << 28]])
def test_peak_memory_of_stored_tensors(tmp_path, shape, floor):
    """Mapped pages count while they are in memory: 512 MiB a side is over the limit if they stay. So are the sums of
    two million column blocks of one row, some 250 bytes each."""
    big, small = write(tmp_path / "big.safetensors", shape), write(tmp_path / "small.safetensors", [8, 16])
    done = subprocess.run(
        [sys.executable, "-c", FILES, big, small, floor], capture_output=True, text=True, check=True, timeout=200
    )
    verdict, grown = done.stdout.split()
    assert verdict == "MATCH"
    assert int(grown) < LIMIT


def save(folder: Path, stages: dict[str, torch.Tensor]) -> str:
    """A trace of one layer's stages, [T, ...]: a prefill in two captures, and the last row a decode step."""
    captures, tensors = [], {}
    for stage, values in stages.items():
        rows = len(values)
        for first, last in [(0, rows // 3), (rows // 3, rows - 1), (rows - 1, rows)]:
            number = len(captures)
            at = Rows(np.zeros(last - first, np.int32), np.arange(first, last, dtype=np.int64))
            phase = ("prefill", 0, number % 3) if last < rows else ("decode", 1, 0)
            tensors[number] = values[first:last]
            dtype = str(values.dtype).removeprefix("torch.")
            captures.append(
                Capture(
                    number, stage, 0, phase[0], *phase[1:], term(stage).axes, dtype, tuple(tensors[number].shape), at
                )
            )
    recipe = Recipe("bf16", "bf16", "bf16", "fp32", "fp32", "bf16", "bf16")
    environment = Environment("3", "2", None, None, "test", "none", 1, "cpu", False)
    sites = tuple((0, stage) for stage in stages)
    run = Run("qwen3_moe", "m", 1, ("p",), ((1, 2),), recipe, Lineage("r"), environment, sites)
    save_trace(folder, MemoryTrace(run, tuple(captures), tensors))
    return str(folder)


def write_trace(folder: Path, rows: int, *, spoilt: int | None = None) -> str:
    """One stage of some rows of 8 values."""
    values = torch.arange(8, dtype=torch.float32).bfloat16().expand(rows, 8).clone()
    if spoilt is not None:
        values[spoilt] = values[spoilt] * 1.5
    return save(folder, {"resid.out": values})


def write_routes(folder: Path, rows: int, *, spoilt: int | None = None) -> str:
    """Ids and weights of eight experts a token. With `spoilt`, that token goes elsewhere, and all slots are turned."""
    ids = (torch.arange(rows)[:, None] + 3 * torch.arange(8)).remainder(64).int()
    weights = torch.softmax(torch.arange(8.0), 0).expand(rows, 8).clone()
    if spoilt is not None:
        ids[spoilt, 2] = (ids[spoilt, 2] + 1) % 64
        ids, weights = ids.flip(1).contiguous(), weights.flip(1).contiguous()
    return save(folder, {"moe.topk_ids": ids, "moe.topk_weights": weights})


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


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kilobytes on Linux only")
@pytest.mark.parametrize("floor", ["", "derived:float32"])
def test_peak_memory_of_the_routes_of_a_million_tokens(tmp_path, floor):
    """Matched by expert, a token of eight slots takes some 700 bytes more, and its weights follow its ids."""
    rows, spoilt = 1_000_003, 777_777
    small, big = write_routes(tmp_path / "small", 100), write_routes(tmp_path / "big", rows)
    write_routes(tmp_path / "big-sut", rows, spoilt=spoilt)
    done = subprocess.run(
        [sys.executable, "-c", ROUTES, small, big, floor], capture_output=True, text=True, check=True, timeout=500
    )
    told, grown = done.stdout.strip().split(";")
    flip = [f"moe.topk_ids NO_FLOOR {rows - 1} flips 1 overlap {8 - 1 / (rows - 1):.9f}"]
    if not floor:
        assert told.split(",")[:1] == flip
        assert f"moe.topk_weights MATCH {rows - 1}" in told.split(",")[2]
    assert f"moe.topk_ids WITHIN_FLOOR 1 flips 0 overlap {8:.9f}" in told.split(",")
    assert int(grown) < LIMIT
