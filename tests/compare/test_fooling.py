"""Does any pair that was built to fool a comparator pass it? Wrong values that hide; honest ones that must not alarm.

Each wrong pair holds its error where an average, a norm, a cosine, a tolerance or a broadcast would lose it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from parity.compare import compare_files
from parity.floor import derive_floor
from parity.records import Verdict

V = Verdict
ACCUMULATION = 20 * 2.0**-24
"""Error of a sum of some thousand terms in fp32, relative to its root mean square."""
NAMES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


@pytest.fixture
def verdict(tmp_path):
    def of(oracle: torch.Tensor, sut: torch.Tensor, floor: str | None) -> Verdict:
        paths = {}
        for side, tensor in (("oracle", oracle), ("sut", sut)):
            paths[side] = tmp_path / f"{side}.safetensors"
            save_file({"x": tensor.contiguous().clone()}, paths[side])
        (record,) = compare_files(**paths, floor=derive_floor(floor) if floor else None).comparisons
        return record.verdict

    return of


def values(rows: int = 96, width: int = 384, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def accumulated(exact: torch.Tensor, seed: int = 9) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    size = exact.square().mean(-1, keepdim=True).sqrt()
    return exact + ACCUMULATION * size * torch.randn(exact.shape, generator=g, dtype=torch.float64)


def tiny_row(x):
    """A row a million times smaller than the rest, wrong by a tenth of itself."""
    x[11] *= 1.1


def beside_a_giant(x):
    """One row of a billion times the others' size; another row is lost."""
    x[40] = 0


def norms_kept(x):
    """Every row's norm, and the tensor's histogram, stay as they were."""
    x[:] = x.flip(0)


def columns_rolled(x):
    x[:] = x.roll(1, 1)


def signs(x):
    x[:, 1::2] *= -1


def mean_kept(x):
    """Row and tensor sums are what they were: two elements moved against each other."""
    x[7, 3] += 0.5
    x[7, 4] -= 0.5


def block_of_columns(x):
    x[:, 128:256] *= 1.03


def last_element(x):
    x[-1, -1] = -x[-1, -1] - 1


def scaled_down(x):
    x *= 0.99


def transposed(x):
    x[:, : len(x)] = x[:, : len(x)].T.clone()


WRONG = (
    tiny_row, beside_a_giant, norms_kept, columns_rolled, signs, mean_kept, block_of_columns, last_element, scaled_down,
    transposed,
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("plant", WRONG, ids=lambda plant: plant.__name__)
def test_wrong_values_exceed_the_bound(verdict, dtype, plant):
    exact = values()
    if plant is tiny_row:
        exact[11] *= 1e-3 if dtype == "float16" else 1e-6
    if plant is beside_a_giant:
        exact[3] *= 1e3 if dtype == "float16" else 1e9
    wrong = accumulated(exact)
    plant(wrong)
    to = getattr(torch, dtype)
    assert verdict(exact.to(to), accumulated(exact).to(to), f"derived:{dtype}") is V.WITHIN_FLOOR
    assert verdict(exact.to(to), wrong.to(to), f"derived:{dtype}") is V.EXCEEDS_FLOOR
    assert verdict(exact.to(to), wrong.to(to), None) is V.NO_FLOOR


BYTES_WRONG = (beside_a_giant, norms_kept, columns_rolled, signs)


@pytest.mark.parametrize(
    ("dtype", "plant"),
    [(dtype, plant) for dtype in ("float8_e4m3fn", "float8_e5m2") for plant in BYTES_WRONG]
    + [("float8_e4m3fn", block_of_columns)],
)
def test_wrong_bytes_exceed_the_bound(verdict, dtype, plant):
    """What roundings to four bits leave visible: 3 % of a block of columns in some 500,000 values, of e5m2's three bits
    not even there."""
    exact = 8 * values(4096 if plant is block_of_columns else 512)
    wrong = accumulated(exact)
    plant(wrong)
    to = getattr(torch, dtype)
    assert verdict(exact.to(to), wrong.to(to), f"derived:{dtype}") is V.EXCEEDS_FLOOR


@pytest.mark.parametrize("dtype", NAMES)
def test_one_wrong_element_of_ten_million(verdict, dtype):
    one = torch.ones(2500, 4000).to(getattr(torch, dtype))
    other = one.clone()
    other[1234, 3999] = 3
    assert verdict(one, other, f"derived:{dtype}") is V.EXCEEDS_FLOOR


@pytest.mark.parametrize(
    ("oracle", "sut"),
    [((4, 8), (1, 8)), ((4, 8), (8,)), ((4, 8), (8, 4)), ((1,), ()), ((2, 4), (8,)), ((4, 4, 1), (4, 4))],
)
def test_shapes_that_broadcast_or_flatten_alike_never_pass(verdict, oracle, sut):
    assert verdict(torch.ones(oracle), torch.ones(sut), "derived:float32") is V.SHAPE_MISMATCH


def test_a_transposed_square_of_the_same_values_never_passes(verdict):
    square = values(129, 129).float()
    assert verdict(square, square.T, "derived:float32") is V.EXCEEDS_FLOOR


@pytest.mark.parametrize("dtype", NAMES)
def test_zeros(verdict, dtype):
    zeros, floor = torch.zeros(3, 130).to(getattr(torch, dtype)), f"derived:{dtype}"
    assert verdict(zeros, zeros, floor) is V.MATCH
    assert verdict(zeros, (0.25 + zeros.float()).to(zeros.dtype), floor) is V.EXCEEDS_FLOOR
    assert verdict((0.25 + zeros.float()).to(zeros.dtype), zeros, floor) is V.EXCEEDS_FLOOR
    # The sign of a zero is a bit, and no number: no match, and nothing over a bound.
    assert verdict(zeros, (-zeros.float()).to(zeros.dtype), floor) is V.WITHIN_FLOOR
    assert verdict(zeros, (-zeros.float()).to(zeros.dtype), None) is V.NO_FLOOR


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_flushed_denormals_are_no_match_and_no_clean_bill(verdict, dtype):
    to = getattr(torch, dtype)
    tiny = (values() * torch.finfo(to).smallest_normal / 16).to(to)
    assert verdict(tiny, torch.zeros_like(tiny), f"derived:{dtype}") in (V.EXCEEDS_FLOOR, V.NO_POWER)


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_same_nonfinite_elements_on_both_sides_never_pass(verdict, dtype, bad):
    x = torch.ones(3, 257)
    x[2, 200] = bad
    x = x.to(getattr(torch, dtype))
    if not torch.isnan(x.float()).any() and not torch.isinf(x.float()).any():
        pytest.skip("the format has no infinity and saturates")
    assert verdict(x, x, f"derived:{dtype}") is V.NONFINITE


def test_a_bound_of_another_dtype_is_not_lenient_to_a_finer_one(verdict):
    """fp32 values 0.3 % apart pass a bf16 bound only if that is what they were rounded to."""
    exact = values().float()
    coarse = exact * (1 + 0.003 * values(seed=1).float())
    assert verdict(exact, coarse, "derived:float32") is V.EXCEEDS_FLOOR
    assert verdict(exact, coarse, "derived:bfloat16") is not V.WITHIN_FLOOR
    assert verdict(exact, (1.001 * exact).float(), "derived:bfloat16") is V.EXCEEDS_FLOOR
    rounded = exact.bfloat16().float()  # stored wider than it was rounded to
    assert verdict(exact, rounded, "derived:bfloat16") is V.WITHIN_FLOOR


def honest(shape: tuple[int, ...], name: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    scale = 10 ** (2 * torch.rand(shape[0], 1, generator=g, dtype=torch.float64) - 1)
    exact = scale * torch.randn(shape, generator=g, dtype=torch.float64)
    exact = exact.clamp(-400, 400)
    to = getattr(torch, name)
    return accumulated(exact, 2 * seed).to(to), accumulated(exact, 2 * seed + 1).to(to)


SHAPES = ((2048, 3), (3, 2048), (64, 64), (1, 129), (129, 129))


def alarms(name: str, pairs: int) -> int:
    from parity.metrics import column_edges, fold_rounded, tables_of

    floor, found = derive_floor(name), 0
    for seed in range(pairs):
        oracle, sut = honest(SHAPES[seed % len(SHAPES)], name, seed)
        columns = column_edges(("D",), oracle.shape[1:])
        rows, across = fold_rounded(oracle=oracle, sut=sut, model=floor.model, edges=columns.edges)
        tables = tables_of(rows=rows, across=across[0], columns=columns, index=np.arange(len(oracle)), experts=None)
        judged = [floor.judge(kind=table.kind, table=table) for table in tables]
        found += any(float(np.nan_to_num(over).max()) > 1 for each in judged for over in each.values())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_honest_noise_of_every_shape_passes(name):
    assert alarms(name, 50) == 0


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_honest_noise_passes_a_thousand_times_of_a_thousand(name):
    assert alarms(name, 1000) == 0
