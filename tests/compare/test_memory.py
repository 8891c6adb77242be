"""Does a comparison hold less than 256 MB besides the files, whatever their size?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 256

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
