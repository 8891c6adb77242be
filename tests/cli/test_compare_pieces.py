"""Are tensors that are read in pieces judged as the whole, within 256 MB?"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from parity.compare import compare_files
from parity.floor import derive_floor


@pytest.mark.parametrize("shape", [(3, 1_300_000), (200_001, 3), (3_000_001,)])
def test_pieces_are_the_whole(compare, shape):
    """Long rows and many rows: the same numbers in one piece and in many."""
    exact = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    other = exact * (1 + 1e-6 * torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    other.view(-1)[-2] += 1
    save_file({"x": exact}, compare.paths["oracle"])
    save_file({"x": other}, compare.paths["sut"])
    floor = derive_floor("float32")
    (record,) = compare_files(**compare.paths, floor=floor).comparisons
    direct = ((other.double() - exact.double()).norm() / exact.double().norm()).item()
    assert record.whole["rel_l2"] == pytest.approx(direct, rel=1e-9)
    assert record.verdict.value == "EXCEEDS_FLOOR"
    last = shape[-1] - 2
    row = 0 if len(shape) == 1 else shape[0] - 1
    assert f"row {row}, column {last}" in [s.where for s in record.worst]


def test_long_rows_are_judged_by_columns_and_by_rows(compare):
    """Rows longer than a stretch: the worst row, its element and the worst block are those of the plain sums."""
    width, left = 2_100_003, 1_900_032  # of the second stretch
    exact = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    other = exact * (1 + 1e-7 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(1)))
    other[:, left : left + 128] *= 1.01
    other[2, left + 5] += 0.5
    save_file({"x": exact}, compare.paths["oracle"])
    save_file({"x": other}, compare.paths["sut"])
    for floor in (None, derive_floor("float32")):
        (record,) = compare_files(**compare.paths, floor=floor).comparisons
        by_kind = {s.kind: s for s in record.worst}
        assert by_kind["columns"].where == f"columns {left}..{left + 128}"
        assert by_kind["columns"].index == left // 128
        assert by_kind["row"].where == f"row 2, column {left + 5}"
        d = other.double() - exact.double()
        assert by_kind["tensor"].metrics["rel_l2"] == pytest.approx((d.norm() / exact.double().norm()).item(), 1e-9)
        assert by_kind["row"].metrics["rel_l2"] == pytest.approx((d[2].norm() / exact[2].double().norm()).item(), 1e-9)


PEAK = """
import resource, sys
from parity.compare import compare_files
from parity.floor import derive_floor
def rss():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) / 1024
floor = derive_floor("bfloat16")
small = sys.argv[1]
compare_files(oracle=small, sut=small, floor=floor)
before, most = rss(), 0
def watch(name, size):
    global most
    most = max(most, rss())
compare_files(oracle=sys.argv[2], sut=sys.argv[3], floor=floor, progress=watch)
print(max(most, rss()) - before)
"""


@pytest.mark.long
@pytest.mark.parametrize("shape", [(20_000, 8192), (40_000_000, 2), (1, 240_000_000), (3, 40_000_000)])
def test_memory_stays_below_256_mb_besides_the_mapped_files(tmp_path, shape):
    x = torch.randn(shape[0] * shape[1] // 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = x.repeat(8).reshape(shape)
    save_file({"x": x}, tmp_path / "a.safetensors")
    save_file({"x": x * 1.01}, tmp_path / "b.safetensors")
    save_file({"x": x[:1, :8].clone()}, tmp_path / "small.safetensors")
    del x
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("small", "a", "b")]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 256
