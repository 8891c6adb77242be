"""Does the analytic bound pass every honest pair of its dtype, and see the faults that its mathematics lets it see?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from parity.errors import DtypeError, UsageError, ValueRangeError
from parity.floor import derive_floor
from parity.floor.derived import DerivedFloor
from parity.metrics import column_edges, pair_moments, rounded_moments, slice_tables
from parity.metrics.rounding import FORMATS

SHAPES = [(1, 1), (1, 2), (1, 7), (1, 64), (3, 1), (257, 1), (16, 16), (5, 129), (33, 300), (200, 128), (64, 640)]
DISTRIBUTIONS = (
    "normal", "heavy", "row scales", "column scales", "sparse", "cancelling", "positive", "repeated rows",
    "constant", "few values", "tiny", "exact oracle",
)  # fmt: skip


def accumulated(a: torch.Tensor, b: torch.Tensor, chunk: int, order: torch.Tensor) -> torch.Tensor:
    """[N, W] in fp32: products summed over K in that order, chunk after chunk."""
    a, b = a[:, order], b[order]
    total = torch.zeros(a.shape[0], b.shape[1])
    for at in range(0, len(order), chunk):
        total += a[:, at : at + chunk] @ b[at : at + chunk]
    return total


def honest(seed: int, dtype: torch.dtype) -> tuple[str, torch.Tensor, torch.Tensor]:
    """(what, oracle, sut): one product of fp32 operands, accumulated in fp32 in two orders, each rounded once."""
    g = torch.Generator().manual_seed(seed)
    draw = np.random.default_rng(seed)
    what = DISTRIBUTIONS[seed % len(DISTRIBUTIONS)]
    rows, width = SHAPES[draw.integers(len(SHAPES))]
    inner = int(draw.choice([64, 300, 2048] if what == "cancelling" else [1, 3, 64, 300, 2048]))
    a, b = torch.randn(rows, inner, generator=g), torch.randn(inner, width, generator=g)
    if what == "heavy":
        a, b = a / a.roll(1, 0).abs().clamp_min(1e-2) ** 1.5, b * torch.randn(inner, width, generator=g) ** 3
    elif what == "row scales":
        a *= 10 ** (8 * torch.rand(rows, 1, generator=g) - 4)
    elif what == "column scales":
        b *= 10 ** (6 * torch.rand(1, width, generator=g) - 3)
    elif what == "sparse":
        a *= torch.rand(rows, 1, generator=g) < 0.3
        b *= torch.rand(inner, width, generator=g) < 2 / inner
    elif what == "cancelling":  # what is left is one part in 8 to 128 of what was added
        left = float(draw.choice([8, 64, 128]))
        a = torch.cat([a, -a + torch.randn(a.shape, generator=g) / left], 1)
        b = torch.cat([b, b], 0)
    elif what == "positive":
        a, b = a.abs(), b.abs()
    elif what == "repeated rows":
        a = a[torch.randint(max(1, rows // 16), (rows,), generator=g)]
    elif what == "constant":
        a, b = a[:1, :1].expand(rows, inner).clone(), b[:1, :1].expand(inner, width).clone()
    elif what == "few values":
        a, b = a[:1].expand(rows, inner).clone(), b[:, torch.randint(min(3, width), (width,), generator=g)]
    b = b / inner**0.5
    # fp8 holds four decades: keep the bulk inside, and nothing over its largest value.
    top = (a.double() @ b.double()).abs().max().item() or 1.0
    limit = {"float8_e4m3fn": 400.0, "float8_e5m2": 3e4, "float16": 3e4}.get(str(dtype).removeprefix("torch."))
    if limit is not None:
        a = a * (limit / top)
    if what == "tiny":
        p, lowest = FORMATS[str(dtype).removeprefix("torch.")]
        a = (
            a * (2.0 ** (lowest + p) / top * float(draw.choice([0.5, 4.0, 64.0])))
            if dtype != torch.float32
            else a * 1e-30
        )
    order = torch.randperm(a.shape[1], generator=g)
    chunk = 1 if a.shape[1] <= 128 else int(draw.choice([4, 32]))
    sut = accumulated(a, b, chunk, order).to(dtype)
    if what == "exact oracle":
        return what, a.double() @ b.double(), sut
    return what, (a @ b).to(dtype), sut


def scores(oracle: torch.Tensor, sut: torch.Tensor, floor: DerivedFloor) -> dict[str, float]:
    """Worst score of each slice kind and metric."""
    columns = column_edges(("D",), (oracle.shape[1],))
    moments = floor.moments(oracle=oracle, sut=sut, edges=columns.edges)
    return {
        f"{table.kind} {metric}": float(np.nan_to_num(over, nan=-1.0).max())
        for table in slice_tables(moments, columns)
        for metric, over in floor.judge(kind=table.kind, table=table).items()
    }


def alarms(dtype: torch.dtype, seeds: range) -> list[str]:
    floor = derive_floor(str(dtype))
    found = []
    for seed in seeds:
        what, oracle, sut = honest(seed, dtype)
        worst = max(scores(oracle, sut, floor).items(), key=lambda item: item[1])
        if worst[1] > 1:
            found.append(f"seed {seed}, {what} {tuple(sut.shape)}: {worst[0]} {worst[1]:.3g}")
    return found


NAMES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("name", NAMES)
def test_honest_pairs_pass(name):
    assert alarms(getattr(torch, name), range(120)) == []


def crowded(what: str, dtype: torch.dtype) -> torch.Tensor:
    """[256, 384] in fp32: different values, most of them within few rounding intervals of `dtype`."""
    g = torch.Generator().manual_seed(3)
    noise, unit = torch.randn(256, 384, generator=g), 2.0 ** -FORMATS[str(dtype).removeprefix("torch.")][0]
    if what == "below the middle of an interval":
        return 1 + unit * (0.7 + 0.05 * noise.clamp(-3, 3))
    if what == "saturated gate":
        return 1 - unit * torch.exp(-2 + 0.5 * noise)
    return torch.randn(1, 384, generator=g) * (1 + 1e-5 * noise)  # rows alike but for accumulation


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn"])
@pytest.mark.parametrize("what", ["below the middle of an interval", "saturated gate", "rows alike"])
def test_values_that_share_a_rounding_interval_are_no_fault(name, what):
    dtype = getattr(torch, name)
    exact, floor = crowded(what, dtype), derive_floor(name)
    honest_sut = (exact * (1 + 1e-7 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(4)))).to(dtype)
    assert (exact.double() - honest_sut.double()).mean().abs() > 0  # one error, many times: no mean takes it out
    assert max(scores(exact, honest_sut, floor).values()) <= 1
    assert max(scores(honest_sut, exact, floor).values()) <= 1
    faulty = exact.clone()
    faulty[:, 128:256] *= 1 + 16 * 2.0 ** -FORMATS[name][0]  # eight intervals
    assert max(scores(exact, faulty.to(dtype), floor).values()) > 1
    assert max(scores(faulty.to(dtype), exact, floor).values()) > 1


def test_an_oracle_beyond_the_narrow_dtype_is_no_nan():
    exact = truth(16, 128) * 200  # E4M3 ends at 448 and has no infinity
    found = scores(exact, exact.clamp(-448, 448).to(torch.float8_e4m3fn), derive_floor("float8_e4m3fn"))
    assert found["row element"] > 1
    assert not any(np.isnan(value) for value in found.values())


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_of_a_thousand_honest_pairs_pass(name):
    assert alarms(getattr(torch, name), range(1000, 2000)) == []


def truth(rows: int = 512, width: int = 640, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=g, dtype=torch.float64) * (1 + torch.rand(rows, 1, generator=g))


def swapped(x):
    x[[10, 300]] = x[[300, 10]]


def similar_swapped(x):
    """Adjacent rows that differ by 2 %."""
    x[[10, 11]] = x[[11, 10]]


def alternating(x):
    x[:, ::2] *= -1


def scaled(factor, rows=slice(None), columns=slice(None)):
    def plant(x):
        x[rows, columns] *= factor

    return plant


def lost(x):
    x[77] = 0


def wild(x):
    x[5, 6] = 100 * x[5, 6].abs() + 1


FAULTS = {
    "two rows swapped": swapped,
    "similar rows swapped": similar_swapped,
    "alternating signs": alternating,
    "+1 %": scaled(1.01),
    "-1 %": scaled(0.99),
    "+1 % in one row": scaled(1.01, rows=slice(200, 201)),
    "-1 % in one row": scaled(0.99, rows=slice(200, 201)),
    "+1 % in 128 columns": scaled(1.01, columns=slice(256, 384)),
    "-1 % in 128 columns": scaled(0.99, columns=slice(256, 384)),
    "+3 % in 128 columns": scaled(1.03, columns=slice(128, 256)),
    "-3 % in 128 columns": scaled(0.97, columns=slice(128, 256)),
    "one row lost": lost,
    "one wild element": wild,
}


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("exact_oracle", [False, True])
def test_faults_are_seen(name, fault, exact_oracle):
    dtype = getattr(torch, name)
    exact = truth()
    exact[11] = exact[10] * (1 + 0.02 * torch.randn(640, generator=torch.Generator().manual_seed(1)))
    noise = 1e-6 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(2))
    faulty = exact + noise
    FAULTS[fault](faulty)
    oracle = exact if exact_oracle else exact.to(dtype)
    floor = derive_floor(name)
    assert max(scores(oracle, faulty.to(dtype), floor).values()) > 1
    assert max(scores(oracle, (exact + noise).to(dtype), floor).values()) <= 1


def test_one_row_of_4096_lost_is_seen():
    exact = truth(4096, 64)
    faulty = exact.clone()
    faulty[4000] = 0
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        assert max(scores(exact.to(dtype), faulty.to(dtype), derive_floor(name)).values()) > 1


def test_a_wild_element_in_a_row_of_huge_norm_is_seen_by_its_own_bound_alone():
    exact = truth(16, 640)
    exact[9, 0] = 1e5
    faulty = exact.clone()
    faulty[9, 300] = 100.0
    found = scores(exact.bfloat16(), faulty.bfloat16(), derive_floor("bfloat16"))
    assert found["row element"] > 1
    assert found["row rel_l2"] < 1
    assert found["row slope"] < 1


def test_truncation_instead_of_rounding_is_seen():
    """fp32 to bf16 by cutting bits off: every value shrinks, by 0.27 % on average; no element is out of its bound."""
    exact = truth(256, 640).float()
    cut = (exact.view(torch.int32) & -65536).view(torch.float32).bfloat16()
    assert scores(exact.bfloat16(), cut, derive_floor("bfloat16"))["tensor slope"] > 1


def test_tf32_products_are_no_fp32_noise():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 512, generator=g), torch.randn(512, 256, generator=g)

    def tf32(t):
        return ((t.view(torch.int32) + 4096) & -8192).view(torch.float32)

    assert max(scores(a @ b, tf32(a) @ tf32(b), derive_floor("float32")).values()) > 1


@pytest.mark.parametrize(("shape", "least"), [((1, 64), 50), ((4, 16), 50), ((1, 16), 45)])
def test_one_percent_of_a_small_bf16_tensor(shape, least):
    """The gate of 16 values is at most 0.82 %, and their slope errs by 0.23 % * sqrt(3 / 16) = 0.1 %: 1.8 spreads, 96 %
    of 50; of 64 values 3.6 spreads."""
    floor = derive_floor("bfloat16")
    seen = 0
    for seed in range(50):
        exact = truth(*shape, seed=seed)
        oracle, sut = exact.bfloat16(), (1.01 * exact).bfloat16()
        seen += max(scores(oracle, sut, floor).values()) > 1
        columns = column_edges(("D",), (shape[1],))
        moments = floor.moments(oracle=oracle, sut=sut, edges=columns.edges)
        table = slice_tables(moments, columns)[-1]
        assert 0.002 < floor.scale_seen("tensor", table)[0] < 0.01
    assert seen >= least


def test_what_a_slice_cannot_show_is_told():
    """A bf16 scalar: two roundings are 0.78 %, and one value says nothing of what it was added up from."""
    floor = derive_floor("bfloat16")
    one = torch.full((1, 1), 1.5).bfloat16()
    moments = floor.moments(oracle=one, sut=one)
    (row, tensor) = slice_tables(moments, column_edges(("D",), (1,)))
    assert floor.scale_seen("tensor", tensor)[0] > 0.01
    nothing = floor.moments(oracle=one * 0, sut=one * 0)
    assert floor.scale_seen("row", slice_tables(nothing, column_edges(("D",), (1,)))[0])[0] == np.inf
    assert row.kind == "row"


def test_subnormals_have_an_absolute_bound():
    floor = derive_floor("bfloat16")
    y = torch.full((4, 8), 1e-40, dtype=torch.float64)
    one_step_off = y.bfloat16().double() + 2.0**-133
    assert max(scores(y.bfloat16(), one_step_off.bfloat16(), floor).values()) <= 1
    assert max(scores(y.bfloat16(), (y * 6).bfloat16(), floor).values()) > 1
    assert max(scores(torch.zeros(4, 8), torch.full((4, 8), 1e-30), floor).values()) > 1


def test_repeated_rows_and_values_do_not_count_as_independent():
    """Equal rows are rounded alike: a thousand of them see no smaller scale error than one does."""
    floor = derive_floor("bfloat16")
    row = truth(1, 128)
    seen = []
    for exact in (row, row.expand(1000, 128), truth(1000, 128), torch.full((1000, 128), 1.2345)):
        y = exact.bfloat16()
        columns = column_edges(("D",), (128,))
        table = slice_tables(floor.moments(oracle=y, sut=y, edges=columns.edges), columns)[-1]
        seen.append(float(floor.scale_seen("tensor", table)[0]))
    alone, repeated, independent, constant = seen
    assert repeated == pytest.approx(alone, rel=0.05)
    assert independent < 0.1 * alone
    assert constant > alone


def test_more_roundings_widen_the_bound():
    exact = truth(32, 256)
    g = torch.Generator().manual_seed(3)
    inside = exact * (1 + 2.0**-8 * torch.randn(exact.shape, generator=g))  # an intermediate in bf16
    assert max(scores(exact.bfloat16(), inside.bfloat16(), derive_floor("bfloat16")).values()) > 1
    assert max(scores(exact.bfloat16(), inside.bfloat16(), derive_floor("bfloat16:4")).values()) <= 1
    assert derive_floor("derived:torch.bfloat16:4").label == "derived:bfloat16:4"


def test_the_bound_is_certain_for_one_rounding_of_every_bf16_value():
    """All finite bf16 values against exact ones anywhere in their rounding interval."""
    bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    y = bits.view(torch.bfloat16)
    y = y[torch.isfinite(y) & (y.abs() < 1e38)][None]
    for share in (-0.499, 0.0, 0.499):
        step = (y.view(torch.int16) + 1).view(torch.bfloat16).double() - y.double()
        exact = y.double() + share * step * (step.abs() < 1e38)
        moments = derive_floor("bfloat16").moments(oracle=exact, sut=exact.bfloat16())
        assert moments.element.max() <= 1


@pytest.mark.parametrize(
    ("name", "error"),
    [("int8", DtypeError), ("bfloat17", DtypeError), ("bfloat16:0", ValueRangeError), ("bfloat16:x", UsageError)],
)
def test_other_names_are_refused(name, error):
    with pytest.raises(error):
        derive_floor(name)


def test_plain_moments_are_refused():
    columns = column_edges(("D",), (4,))
    table = slice_tables(pair_moments(oracle=torch.ones(2, 4), sut=torch.ones(2, 4)), columns)[0]
    with pytest.raises(UsageError):
        derive_floor("float32").judge(kind="row", table=table)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 129)])
def test_rounded_moments_are_pair_moments_and_more(shape):
    y = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = y + 1
    edges = column_edges(("D",), (shape[1],)).edges
    plain = pair_moments(oracle=y, sut=x, edges=edges)
    found = rounded_moments(oracle=y, sut=x, model=derive_floor("float32").model, edges=edges)
    assert found.shape == plain.shape
    np.testing.assert_array_equal(found.dd, plain.dd)
    cells = [(y[:, a:b].double() ** 4).sum(1).numpy() for a, b in pairwise(edges)]
    if plain.count.size:
        np.testing.assert_allclose(found.fourth, np.stack(cells, 1), rtol=1e-12)


def test_nan_enters_no_sum():
    y = torch.ones(3, 4)
    x = y.clone()
    x[1, 2] = float("nan")
    found = derive_floor("float32").moments(oracle=y, sut=x)
    assert np.isfinite(found.element).all()
    assert found.fourth[1, 0] == pytest.approx(9, rel=1e-5)  # 3 equal values of 1: 3 * 3
