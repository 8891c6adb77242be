"""Do the compiled kernel and the plain path give a plain fp64 reference's moments, whatever the values and layouts?"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.errors import ShapeError
from parity.metrics import READABLE, Moments, column_edges, fold_moments, native_state, pair_moments, pairs

INTEGER = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
COUNTS = ("count", "finite", "nonfinite_oracle", "nonfinite_sut", "differ")
PATHS = ["0", "1"] if native_state().kernel else ["0"]


def reference(oracle: torch.Tensor, sut: torch.Tensor, edges: tuple[int, ...]) -> tuple[Moments, Moments]:
    """Moments, and the sums of magnitudes that their rounding is measured against; numpy alone, cell by cell."""
    got, size = (Moments.zeros(len(oracle), len(edges) - 1) for _ in range(2))
    y, x = oracle.to(torch.float64).numpy(), sut.to(torch.float64).numpy()
    wide = torch.float64 if torch.float64 in (oracle.dtype, sut.dtype) else torch.float32
    a, b = (oracle, sut) if oracle.dtype == sut.dtype else (oracle.to(wide), sut.to(wide))
    differ = (a.view(INTEGER[a.element_size()]) != b.view(INTEGER[b.element_size()])).numpy()
    for row in range(len(y)):
        for c, (left, right) in enumerate(pairwise(edges)):
            p, q = y[row, left:right], x[row, left:right]
            fine = np.isfinite(p) & np.isfinite(q)
            got.count[row, c], got.finite[row, c] = len(p), fine.sum()
            got.nonfinite_oracle[row, c] = (~np.isfinite(p)).sum()
            got.nonfinite_sut[row, c] = (~np.isfinite(q)).sum()
            got.differ[row, c] = differ[row, left:right].sum()
            p, q = p[fine], q[fine]
            d = q - p
            for name, product in (("xx", q * q), ("yy", p * p), ("dy", d * p), ("dd", d * d)):
                getattr(got, name)[row, c] = product.sum()
                getattr(size, name)[row, c] = np.abs(product).sum()
            got.max_abs[row, c] = np.abs(d).max(initial=0.0)
    return got, size


NARROW = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Dtypes that the compiled kernel sums in fp32 first, 16 products at a time."""


def assert_equal(
    got: Moments, want: Moments, size: Moments, terms: int, dtypes: tuple[torch.dtype, torch.dtype] | None = None
) -> None:
    for name in COUNTS:
        assert np.array_equal(getattr(got, name), getattr(want, name)), name
    narrow = 2.0**-24 if dtypes is not None and dtypes[0] == dtypes[1] and dtypes[0] in NARROW else 0.0
    assert np.all(np.abs(got.max_abs - want.max_abs) <= narrow * want.max_abs)
    for name in ("xx", "yy", "dy", "dd"):
        # Both sides add `terms` products in some order, each product of a rounded difference: (terms + 2) * 2^-53 of
        # the magnitudes a side. Below the smallest subnormal fp64 nothing is promised.
        off = np.abs(getattr(got, name) - getattr(want, name))
        # cells.h: 16 + 3 roundings of fp32 besides.
        unit = 2 * (terms + 2) * 2**-53 + 19 * narrow
        assert np.all(off <= unit * getattr(size, name) + terms * 5e-324), name


def random_codes(rows: int, width: int, dtype: torch.dtype, seed: int, kind: str) -> torch.Tensor:
    """Any bit patterns (`codes`), finite ones (`finite`), subnormal or near it (`tiny`), or zeros of both signs."""
    size = torch.empty(0, dtype=dtype).element_size()
    g = np.random.default_rng(seed)
    if not rows:
        return torch.empty(0, width, dtype=dtype)
    codes = torch.from_numpy(g.integers(0, 256, (rows, width * size), dtype=np.uint8)).view(dtype)
    if kind == "codes":
        return codes
    wide = codes.double()
    if kind == "finite":
        wide = torch.where(torch.isfinite(wide), wide, 1.0)
        wide = wide.clamp(-1e150, 1e150)  # the range that the sums are promised for
    elif kind == "tiny":
        info = torch.finfo(dtype)
        wide = torch.from_numpy(g.integers(-40, 41, (rows, width))).double() * (float(info.tiny) * float(info.eps))
    else:
        wide = torch.from_numpy(np.where(g.random((rows, width)) < 0.5, 0.0, -0.0))
    return wide.to(dtype)


def layout(width: int, kind: str) -> tuple[int, ...]:
    steps = {"one": width, "heads": 64, "blocks": 128, "ones": 1, "odd": 7}
    return tuple(sorted({0, width, *range(0, width, steps[kind])})) if width else (0,)


@pytest.mark.parametrize("native", PATHS)
@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    rows=st.integers(0, 4),
    width=st.integers(1, 300),
    dtypes=st.tuples(st.sampled_from(READABLE), st.sampled_from(READABLE)),
    kinds=st.tuples(*[st.sampled_from(["codes", "finite", "tiny", "zeros"])] * 2),
    cut=st.sampled_from(["one", "heads", "blocks", "ones", "odd"]),
    seed=st.integers(0, 2**32),
)
def test_any_pair_has_the_reference_moments(native, rows, width, dtypes, kinds, cut, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARITY_NATIVE", native)
        oracle, sut = (
            random_codes(rows, width, d, seed + n, k) for n, (d, k) in enumerate(zip(dtypes, kinds, strict=True))
        )
        if torch.float64 in dtypes:  # random codes of fp64 exceed what squares can hold
            oracle, sut = (t.clamp(-1e150, 1e150) if t.dtype == torch.float64 else t for t in (oracle, sut))
        if dtypes[0] != dtypes[1]:  # a NaN's payload is no number: what widening makes of it is the processor's matter
            oracle, sut = (
                torch.where(torch.isnan(t.double()), torch.tensor(1.0, dtype=t.dtype), t) for t in (oracle, sut)
            )
        edges = layout(width, cut)
        got = pair_moments(oracle=oracle, sut=sut, edges=edges)
        assert_equal(got, *reference(oracle, sut, edges), terms=width, dtypes=dtypes)


@pytest.mark.parametrize("native", PATHS)
@pytest.mark.parametrize("pair", [(a, b) for a in READABLE for b in READABLE], ids=str)
def test_every_dtype_pair_at_every_code(monkeypatch, native, pair):
    """Every code of a byte, and all 65,536 of two bytes, against the other side's."""
    monkeypatch.setenv("PARITY_NATIVE", native)
    sides = []
    for seed, dtype in enumerate(pair):
        size = torch.empty(0, dtype=dtype).element_size()
        if size <= 2:
            codes = torch.arange(2**16).to(torch.int32)
            t = (codes.to(torch.int16) if size == 2 else (codes % 256).to(torch.uint8)).view(dtype)
        else:
            t = random_codes(1, 2**16, dtype, seed, "finite")[0]
        sides.append(torch.where(torch.isnan(t.double()), torch.tensor(1.0, dtype=dtype), t)[None])
    edges = layout(2**16, "blocks")
    got = pair_moments(oracle=sides[0], sut=sides[1], edges=edges)
    assert_equal(got, *reference(sides[0], sides[1], edges), terms=128, dtypes=pair)


@pytest.mark.parametrize("native", PATHS)
def test_folding_adds_the_same_cells(monkeypatch, native):
    monkeypatch.setenv("PARITY_NATIVE", native)
    monkeypatch.setattr(pairs, "_RUN_BYTES", 20 * 300)  # groups cross the runs
    monkeypatch.setattr(pairs, "_PLAIN_ELEMENTS", 5 * 300)
    oracle, sut = (random_codes(43, 300, torch.float16, seed, "codes") for seed in (0, 1))
    sut[7] = oracle[7]
    edges = column_edges(("H", "K"), (3, 100)).edges
    group = np.random.default_rng(0).integers(-1, 4, 43)
    cells = pair_moments(oracle=oracle, sut=sut, edges=edges)
    rows, columns = fold_moments(oracle=oracle, sut=sut, edges=edges, group=group)
    names, _, want = cells.groups(group)
    assert names.tolist() == [0, 1, 2, 3]
    for name in Moments.__dataclass_fields__:
        # Another order of 43 * 300 additions: 12,900 * 2^-53 < 2e-12. dy alone has both signs, and here no small sum.
        near = {"rtol": 0.0} if name in (*COUNTS, "max_abs") else {"rtol": 1e-10}
        np.testing.assert_allclose(getattr(rows, name), getattr(cells.total(axis=1), name), **near, err_msg=name)
        np.testing.assert_allclose(getattr(columns, name), getattr(want, name), **near, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_threads_change_no_bit(monkeypatch, dtype):
    monkeypatch.setattr(pairs, "_RUN_BYTES", 12 * 333)
    oracle, sut = (random_codes(200, 333, dtype, seed, "finite") for seed in (0, 1))
    seen: list[int] = []
    results = [
        fold_moments(oracle=oracle, sut=sut, edges=(0, 128, 256, 333), threads=threads, progress=seen.append)
        for threads in (1, 2, 5)
    ]
    assert sum(seen) == 3 * 200
    for part in (0, 1):
        for name in Moments.__dataclass_fields__:
            first, *others = (getattr(result[part], name) for result in results)
            assert all(np.array_equal(first, other) for other in others), name


def test_a_view_that_is_negated_when_it_is_read_counts_by_its_values():
    values = torch.randn(5, 130, generator=torch.Generator().manual_seed(0))
    lazy = torch.complex(values, values).conj().imag
    assert lazy.is_neg()
    assert pair_moments(oracle=-values, sut=lazy).dd.sum() == 0
    assert pair_moments(oracle=lazy, sut=values).dy.sum() < 0


@pytest.mark.parametrize("native", PATHS)
def test_strides_need_no_copy_and_change_nothing(monkeypatch, native):
    monkeypatch.setenv("PARITY_NATIVE", native)
    base = random_codes(20, 400, torch.bfloat16, 0, "finite")
    other = random_codes(20, 400, torch.bfloat16, 1, "finite")
    for cut in (np.s_[:, 3:170], np.s_[::3, 1:400:2], np.s_[5:5], np.s_[4:5]):
        a, b = base[cut], other[cut]
        got, want = pair_moments(oracle=a, sut=b), pair_moments(oracle=a.clone(), sut=b.clone())
        assert np.array_equal(got.dd, want.dd)
    one = pair_moments(oracle=base[:1].expand(6, 400), sut=other[:6])
    assert np.array_equal(one.dd, pair_moments(oracle=base[:1].repeat(6, 1), sut=other[:6]).dd)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ShapeError, match="groups of rows"):
        fold_moments(oracle=torch.ones(2, 3), sut=torch.ones(2, 3), group=np.zeros(3, int))


MEMORY = """
import sys, torch
from pathlib import Path
from parity.metrics import column_edges, fold_moments, pair_moments
def anonymous(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) // 1024
size = 64 * 1024 * 1024
sides = [torch.from_file(p, shared=False, size=size, dtype=torch.bfloat16).view(-1, 4096) for p in sys.argv[1:]]
warm = [torch.ones(2, 8)] * 2
fold_moments(oracle=warm[0], sut=warm[1])
before, most = anonymous("RssAnon"), 0
def watch(rows):
    global most
    most = max(most, anonymous("RssAnon"))
edges = column_edges(("D",), (4096,)).edges
rows, _ = fold_moments(oracle=sides[0], sut=sides[1], edges=edges, threads=2, progress=watch)
assert rows.count.sum() == size
print(most - before)
"""


@pytest.mark.parametrize("native", PATHS)
def test_memory_beyond_the_mapped_files_is_small(tmp_path, native):
    """A pair of 128 MiB each: beyond the maps a few MB (runs of 1 Mi elements and 16,384 rows of 80 bytes) are held."""
    for name in ("a", "b"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(128 << 20)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "a"), str(tmp_path / "b")],
        capture_output=True, text=True, check=True, env={**os.environ, "PARITY_NATIVE": native},
    )  # fmt: skip
    assert int(done.stdout) < 64
