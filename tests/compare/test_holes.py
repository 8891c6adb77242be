"""Does every hole found in published comparators have a verdict here, and the right one?

Each case is compared three ways: with a floor, without one, and inside a trace. None of them may pass.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.compare import compare_pair, measure
from parity.compare.labels import label_rows
from parity.errors import UsageError
from parity.floor import FloorSample, calibrate
from parity.records import Lineage, Recipe, Summary, Verdict

T, D = 64, 256
V = Verdict
RECIPE = Recipe("bf16", "bf16", "bf16", "fp32", "fp32", "bf16", "bf16")


def oracle_of(seed: int) -> torch.Tensor:
    return torch.randn(T, D, generator=torch.Generator().manual_seed(seed))


def noisy(oracle: torch.Tensor, seed: int, noise: float = 0.01) -> torch.Tensor:
    return oracle * (1 + noise * torch.randn(oracle.shape, generator=torch.Generator().manual_seed(seed)))


def compare(oracle, sut, floor=None, **more):
    (record,) = compare_pair(oracle=oracle, sut=sut, axes=("T", "D"), stage="attn.out", layer=0, floor=floor, **more)
    return record


@pytest.fixture(scope="module")
def floor():
    """Eight clean runs with 1 % noise an element."""
    samples = []
    for n in range(8):
        oracle = oracle_of(100 + n)
        parts = [(oracle, noisy(oracle, 200 + n), label_rows(position=np.arange(T)))]
        sample = FloorSample(f"run-{n}")
        for measured in measure(parts, stage="attn.out", layer=0, axes=("T", "D")):
            measured.sample(sample, mode="isolated")
        samples.append(sample)
    return calibrate(samples, recipe=RECIPE, lineage=Lineage("root"))


def test_honest_noise_passes_and_is_not_called_a_match(floor):
    for seed in range(50):
        oracle = oracle_of(seed)
        assert compare(oracle, noisy(oracle, 1000 + seed), floor).verdict is V.WITHIN_FLOOR


def test_identical_bits_match_with_and_without_a_floor(floor):
    oracle = oracle_of(0)
    assert compare(oracle, oracle.clone(), floor).verdict is V.MATCH
    assert compare(oracle, oracle.clone()).verdict is V.MATCH
    assert compare(oracle, oracle.clone()).over_floor is None


def test_identical_zeros_match(floor):
    zeros = torch.zeros(T, D)
    record = compare(zeros, zeros.clone(), floor)
    assert record.verdict is V.MATCH
    assert record.whole["rel_l2"] == 0
    assert record.whole["cosine"] == 1


def test_constant_reference_is_measured_like_any_other(floor):
    oracle = torch.full((T, D), 2.0)
    assert compare(oracle, noisy(oracle, 1), floor).verdict is V.WITHIN_FLOOR
    assert compare(oracle, oracle * 1.5, floor).verdict is V.EXCEEDS_FLOOR


def _nonfinite(oracle_value, sut_value):
    def plant(oracle, sut):
        oracle[5, 7], sut[5, 7] = oracle_value, sut_value

    return plant


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("oracle_value", "sut_value", "sides"),
    [
        (INF, -INF, ("oracle", "sut")), (INF, INF, ("oracle", "sut")), (NAN, 1.0, ("oracle",)), (1.0, NAN, ("sut",)),
        (NAN, NAN, ("oracle", "sut")), (INF, 1.0, ("oracle",)), (1.0, -INF, ("sut",)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("identical", [False, True])
def test_nonfinite_never_passes(floor, oracle_value, sut_value, sides, identical):
    oracle = oracle_of(0)
    sut = oracle.clone() if identical else noisy(oracle, 1)
    _nonfinite(oracle_value, sut_value)(oracle, sut)
    for record in (compare(oracle, sut, floor), compare(oracle, sut)):
        assert record.verdict is V.NONFINITE
        for side in ("oracle", "sut"):
            assert (f"of the {side}, first at position 5" in record.reason) == (side in sides)


def test_nonfinite_in_an_excluded_row_is_not_hidden(floor):
    oracle = oracle_of(0)
    sut = noisy(oracle, 1)
    sut[3, 3] = NAN
    excluded = np.arange(T) == 3
    assert compare(oracle, sut, floor, excluded=excluded).verdict is V.NONFINITE


def one_element(sut):
    sut[9, 9] = 100 * sut[9, 9].abs() + 1


def up(sut):
    sut *= 1.03


def down(sut):
    sut *= 0.97


def permuted(sut):
    sut[:] = sut[torch.randperm(T, generator=torch.Generator().manual_seed(3))]


def two_rows(sut):
    sut[[10, 11]] = sut[[11, 10]]


def one_row_lost(sut):
    sut[40] = 0


def signs(sut):
    sut[:, ::2] *= -1


def all_zero(sut):
    sut[:] = 0


def block(sut):
    sut[:, 128:] *= 1.03


@pytest.mark.parametrize("plant", [one_element, up, down, permuted, two_rows, one_row_lost, signs, all_zero, block])
def test_finite_faults_exceed(floor, plant):
    oracle = oracle_of(0)
    sut = noisy(oracle, 1)
    plant(sut)
    assert compare(oracle, sut, floor).verdict is V.EXCEEDS_FLOOR
    without = compare(oracle, sut)
    assert without.verdict is V.NO_FLOOR
    assert without.worst, "without a floor it is still measured and ranked"


def test_the_worst_slice_is_the_planted_one(floor):
    oracle = oracle_of(0)
    sut = noisy(oracle, 1)
    one_row_lost(sut)
    record = compare(oracle, sut, floor)
    row = next(s for s in record.worst if s.kind == "row")
    assert (row.index, row.where, row.by) == (40, "position 40", "rel_l2")
    assert record.worst[0] is row
    sut = noisy(oracle, 1)
    block(sut)
    record = compare(oracle, sut, floor)
    columns = next(s for s in record.worst if s.kind == "columns")
    assert columns.where == "columns 128..256"
    assert columns.over_floor is not None
    assert columns.over_floor > 1


@pytest.mark.parametrize("shape", [(0, D), (T, 0)])
def test_empty_tensors_are_not_compared(floor, shape):
    record = compare(torch.empty(shape), torch.empty(shape), floor)
    assert record.verdict is V.NOT_COMPARED
    assert record.reason.startswith("empty")
    assert not record.verdict.healthy


@pytest.mark.parametrize("shape", [(1, D), (T, 1), (T, D + 1), (D,), (1, T, D)])
def test_shapes_that_broadcast_are_a_mismatch(floor, shape):
    assert compare(torch.ones(shape), torch.ones(T, D), floor).verdict is V.SHAPE_MISMATCH


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]
)
def test_floating_dtypes_compare_by_value(floor, dtype):
    oracle = oracle_of(0).to(dtype).float()
    assert compare(oracle, oracle.to(dtype), floor).verdict is V.MATCH
    off = oracle.clone()
    one_row_lost(off)
    assert compare(oracle, off.to(dtype), floor).verdict is V.EXCEEDS_FLOOR
    assert compare(oracle.to(dtype), off.to(dtype), floor).verdict is V.EXCEEDS_FLOOR


def test_other_dtypes_are_a_mismatch_or_not_compared(floor):
    floats, ints = torch.ones(T, D), torch.ones(T, D, dtype=torch.int32)
    assert compare(floats, ints, floor).verdict is V.DTYPE_MISMATCH
    assert compare(ints, floats, floor).verdict is V.DTYPE_MISMATCH
    packed = torch.ones(T, D, dtype=torch.uint8)
    assert compare(packed, packed, floor).verdict is V.NOT_COMPARED
    if hasattr(torch, "float4_e2m1fn_x2"):
        fp4 = packed.view(torch.float4_e2m1fn_x2)
        assert compare(fp4, fp4, floor).verdict is V.NOT_COMPARED
        assert compare(floats, fp4, floor).verdict is V.DTYPE_MISMATCH


def test_ids_are_never_compared_as_numbers():
    ids = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)
    (same,) = compare_pair(oracle=ids, sut=ids.long(), axes=("T", "S"), stage="moe.topk_ids", layer=0)
    assert same.verdict is V.MATCH
    (other,) = compare_pair(oracle=ids, sut=ids.float(), axes=("T", "S"), stage="moe.topk_ids", layer=0)
    assert other.verdict is V.DTYPE_MISMATCH


def test_a_comparison_of_nothing_is_no_success():
    nothing = Summary((), ())
    assert not nothing.healthy
    assert not nothing.diverged


def test_what_was_left_out_is_counted_and_too_much_of_it_is_no_verdict(floor):
    oracle = oracle_of(0)
    sut = noisy(oracle, 1)
    few, many = np.arange(T) < 3, np.arange(T) < 4  # 4.7 % and 6.3 % of 64 rows
    record = compare(oracle, sut, floor, excluded=few)
    assert (record.verdict, record.rows, record.excluded_rows) == (V.WITHIN_FLOOR, T - 3, 3)
    for other in (sut, oracle.clone()):
        record = compare(oracle, other, floor, excluded=many)
        assert record.verdict is V.NO_POWER
        assert "4 of 64 rows" in record.reason
    assert compare(oracle, sut, floor, excluded=np.ones(T, bool)).verdict is V.NOT_COMPARED
    one_row_lost(sut)
    assert compare(oracle, sut, floor, excluded=many).verdict is V.EXCEEDS_FLOOR


def test_rows_beyond_the_calibrated_positions_have_no_floor(floor):
    oracle = oracle_of(0)
    sut = noisy(oracle, 1)
    record = compare(oracle, sut, floor, position=np.arange(T) + 40)  # 64 and up was never calibrated
    assert record.verdict is V.NO_FLOOR
    assert record.unjudged == 40
    assert "40 row slices" in record.reason
    one_row_lost(sut)  # row 40, position 80: only the whole tensor can tell
    assert compare(oracle, sut, floor, position=np.arange(T) + 40).verdict is V.EXCEEDS_FLOOR


def test_what_holds_no_values_or_other_rows_is_refused():
    whole = oracle_of(1)
    for side in ("oracle", "sut"):
        for tensor, found in ((whole.to_sparse(), "sparse_coo on cpu"), (whole.to("meta"), "strided on meta")):
            with pytest.raises(UsageError, match="a dense tensor with values") as error:
                compare(**{"oracle": whole, "sut": whole} | {side: tensor})
            assert error.value.place == f"{side} of L00.attn.out"
            assert error.value.found == found
    for name, given in (("position", np.arange(T - 1)), ("phase", np.array(["prefill"] * (T + 1)))):
        with pytest.raises(UsageError, match=f"one for each of {T} tokens") as error:
            compare(whole, whole, **{name: given})
        assert error.value.place == f"{name} of L00.attn.out"
