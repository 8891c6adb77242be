"""Do the compiled pass and the plain torch path come to one verdict, with the same slices, on any pair of any dtype?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from parity.compare import compare_files
from parity.floor import derive_floor
from parity.metrics import READABLE, native_state
from parity.records import Comparison, Verdict

DTYPES = [d for d in READABLE if "fnuz" not in str(d)]
"""safetensors' writer has no name for the others; what reads them is told apart by code in test_pairs.py."""

PLANTS = ("nothing", "noise", "scale", "row lost", "block", "swapped", "one element", "nan", "inf", "zeros", "tiny")


def faulty(exact: torch.Tensor, plant: str, random: np.random.Generator) -> torch.Tensor:
    """What the SUT would have in the oracle's place, in fp64."""
    x = exact.clone()
    row, column = int(random.integers(len(x))), int(random.integers(x.shape[1]))
    if plant == "noise":
        x *= 1 + 2.0 ** -float(random.integers(2, 26)) * torch.from_numpy(random.standard_normal(tuple(x.shape)))
    elif plant == "scale":
        x *= 1 + float(random.choice([-1, 1])) * 2.0 ** -float(random.integers(1, 12))
    elif plant == "row lost":
        x[row] = 0
    elif plant == "block":
        x[:, 128 * (column // 128) : 128 * (column // 128) + 128] *= 1.03
    elif plant == "swapped":
        x = x.flip(0)
    elif plant == "one element":
        x[row, column] = 100 * x[row, column] + 1
    elif plant in ("nan", "inf"):
        x[row, column] = math.nan if plant == "nan" else -math.inf
    elif plant == "zeros":
        x = torch.zeros_like(x)
    elif plant == "tiny":
        x *= 2.0**-30
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    if not native_state().state.startswith("compiled"):
        pytest.skip(f"nothing to compare with: {native_state().state}")
    return tmp_path_factory.mktemp("paths")


def told(record: Comparison) -> tuple:
    """What may not depend on the path. A worst slice is named only where no other is as bad to the last bits."""
    return record.verdict, record.rows, record.excluded_rows, record.unjudged, [s.kind for s in record.worst]


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    same=st.booleans(),
    shape=st.tuples(st.integers(1, 40), st.sampled_from([1, 7, 127, 128, 129, 300])),
    plant=st.sampled_from(PLANTS),
    bound=st.sampled_from([None, "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]),
    seed=st.integers(0, 2**31),
)
def test_one_verdict_on_both_paths(folder, dtypes, same, shape, plant, bound, seed):
    random = np.random.default_rng(seed)
    exact = torch.from_numpy(random.standard_normal(shape)) * 2.0 ** float(random.integers(-3, 4))
    of_y, of_x = (dtypes[0], dtypes[0]) if same else dtypes
    y, x = exact.to(of_y), faulty(exact, plant, random).to(of_x)
    paths = {side: folder / f"{side}.safetensors" for side in ("oracle", "sut")}
    for path, tensor in zip(paths.values(), (y, x), strict=True):
        save_file({"x": tensor.contiguous()}, path)
    floor = None if bound is None else derive_floor(bound)
    records = []
    for native in ("1", "0"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PARITY_NATIVE", native)
            assert native_state().state.startswith("compiled") == (native == "1")
            (record,) = compare_files(**paths, floor=floor).comparisons
        records.append(record)
    a, b = records
    assert told(a)[0] == told(b)[0], (a.reason, b.reason)
    assert set(told(a)[-1]) == set(told(b)[-1])
    assert told(a)[1:-1] == told(b)[1:-1]
    if a.verdict is not Verdict.NONFINITE:
        assert a.whole == pytest.approx(b.whole, rel=1e-6, abs=1e-9, nan_ok=True)
        assert (a.over_floor or 0.0) == pytest.approx(b.over_floor or 0.0, rel=1e-6)
    scores = [{s.kind: s.over_floor or 0.0 for s in r.worst} for r in records]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6, nan_ok=True)
