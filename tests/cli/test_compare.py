"""Does `parity compare` give each hole of published comparators its verdict and exit code?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.cli.comparing import FLOORS, ROWS, WIDTH, both_dtypes, noisy, values

INF, NAN = float("inf"), float("nan")


@both_dtypes
def test_equal_bits_match_and_noise_is_within(compare, dtype):
    exact = values()
    y, x = exact.to(dtype), noisy(exact).to(dtype)
    assert compare.one(y, y)[:2] == (0, "MATCH")
    assert compare.one(y, y, "--floor", FLOORS[dtype])[:2] == (0, "MATCH")
    code, told = compare({"x": y}, {"x": x}, "--floor", FLOORS[dtype])
    assert (code, told["verdicts"]) == (0, {"WITHIN_FLOOR": 1})
    assert told["floor"] == FLOORS[dtype]
    assert told["floor_is"] == "derived"
    assert "not calibrated" in told["floor_words"]
    assert told["first_divergence"] is None
    assert 0 < told["power"]["scale_seen"] < 0.01


@both_dtypes
def test_without_a_floor_a_difference_is_measured_and_not_judged(compare, dtype):
    exact = values()
    code, told = compare({"x": exact.to(dtype)}, {"x": (1.5 * exact).to(dtype)})
    assert (code, told["verdicts"], told["floor"]) == (2, {"NO_FLOOR": 1}, None)
    (record,) = told["comparisons"]
    assert record["whole"]["slope"] == pytest.approx(1.5, rel=1e-3)
    assert {s["kind"] for s in record["worst"]} == {"row", "columns", "tensor"}
    assert told["first_divergence"]["judged"] is False
    assert "--floor derived:DTYPE" in told["next_step"]


def one_element(x):
    x[9, 9] = 100 * x[9, 9].abs() + 1


def permuted(x):
    x[:] = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(3))]


def swapped(x):
    x[[10, 11]] = x[[11, 10]]


def alternating(x):
    x[:, ::2] *= -1


def lost(x):
    x[40] = 0


def block(x):
    x[:, 128:] *= 1.03


def zeros(x):
    x[:] = 0


def scale(factor):
    def plant(x):
        x *= factor

    return plant


@both_dtypes
@pytest.mark.parametrize(
    ("plant", "where"),
    [
        (one_element, "row 9, column 9"), (scale(1.03), ""), (scale(0.97), ""), (scale(1.01), ""), (scale(0.99), ""),
        (permuted, ""), (swapped, "row 1"), (alternating, ""), (lost, "row 40"), (block, "columns 128..256"),
        (zeros, ""),
    ],
)  # fmt: skip
def test_finite_faults_exceed(compare, dtype, plant, where):
    exact = values()
    faulty = noisy(exact)
    plant(faulty)
    y, x = exact.to(dtype), faulty.to(dtype)
    code, verdict, record = compare.one(y, x, "--floor", FLOORS[dtype])
    assert (code, verdict) == (1, "EXCEEDS_FLOOR")
    assert any(s["where"].startswith(where) for s in record["worst"][: 1 if where else 3])
    assert compare.one(y, x)[:2] == (2, "NO_FLOOR")


@both_dtypes
def test_constant_reference(compare, dtype):
    exact = torch.full((ROWS, WIDTH), 2.1, dtype=torch.float64)
    floor = FLOORS[dtype]
    assert compare.one(exact.to(dtype), noisy(exact).to(dtype), "--floor", floor)[0] == 0
    for factor in (1.03, 0.97):
        assert compare.one(exact.to(dtype), (factor * exact).to(dtype), "--floor", floor)[1] == "EXCEEDS_FLOOR"


def test_zeros(compare):
    nothing = torch.zeros(4, 8)
    assert compare.one(nothing, nothing.clone())[:2] == (0, "MATCH")
    assert compare.one(nothing, -nothing, "--floor", "derived:float32")[:2] == (0, "WITHIN_FLOOR")
    assert compare.one(nothing, nothing + 1, "--floor", "derived:float32")[:2] == (1, "EXCEEDS_FLOOR")
    assert compare.one(nothing + 1, nothing, "--floor", "derived:float32")[:2] == (1, "EXCEEDS_FLOOR")


@pytest.mark.parametrize(
    ("y", "x"), [(INF, -INF), (INF, INF), (NAN, 1.0), (1.0, NAN), (NAN, NAN), (INF, 1.0), (1.0, -INF)]
)
@pytest.mark.parametrize("options", [(), ("--floor", "derived:float32")])
def test_nonfinite_never_passes(compare, y, x, options):
    oracle, sut = values().float(), values().float()
    oracle[5, 7], sut[5, 7] = y, x
    code, verdict, record = compare.one(oracle, sut, *options)
    assert (code, verdict) == (1, "NONFINITE")
    assert "row 5" in record["reason"]


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.complex64])
def test_empty_tensors_never_pass(compare, shape, dtype):
    nothing = torch.empty(shape, dtype=dtype)
    for options in ((), ("--floor", "derived:float32")):
        assert compare.one(nothing, nothing, *options)[:2] == (2, "NOT_COMPARED")


@pytest.mark.parametrize("shape", [(1, 8), (4, 1), (8,), (1, 4, 8), (32,)])
def test_shapes_that_broadcast_are_a_mismatch(compare, shape):
    assert compare.one(torch.ones(4, 8), torch.ones(shape), "--floor", "derived:float32")[:2] == (1, "SHAPE_MISMATCH")


def test_other_dtypes(compare):
    floats = values().bfloat16()
    floor = ("--floor", "derived:bfloat16")
    code, verdict, record = compare.one(floats.float(), floats, *floor)
    assert (code, verdict) == (0, "MATCH")
    assert "oracle F32, sut BF16" in record["reason"]
    assert compare.one(values(), floats, *floor)[:2] == (0, "WITHIN_FLOOR")
    assert compare.one(floats, floats.to(torch.int32), *floor)[:2] == (1, "DTYPE_MISMATCH")
    assert compare.one(torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.uint8))[:2] == (1, "DTYPE_MISMATCH")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.uint64, torch.bool])
def test_integers_and_flags_are_exact(compare, dtype):
    ids = (torch.arange(12).reshape(3, 4) % 2 if dtype is torch.bool else torch.arange(12).reshape(3, 4)).to(dtype)
    other = ids.clone()
    other[1, 2] = 1 - other[1, 2].to(torch.int64)
    assert compare.one(ids, ids)[:2] == (0, "MATCH")
    code, verdict, record = compare.one(ids, other, "--floor", "derived:bfloat16:1000")
    assert (code, verdict, record["over_floor"]) == (1, "EXCEEDS_FLOOR", "inf")
    assert "1 of 12 exact values differ, first at row 1, column 2" in record["reason"]
    assert compare.one(ids, other)[:2] == (2, "NO_FLOOR")
    if dtype is torch.int64:
        assert compare.one(ids, ids.to(torch.int32))[:2] == (0, "MATCH")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8(compare, dtype):
    exact = 8 * values()
    floor = ("--floor", f"derived:{str(dtype).removeprefix('torch.')}")
    y = exact.to(dtype)
    assert compare.one(y, y.clone(), *floor)[:2] == (0, "MATCH")
    assert compare.one(exact.float(), y, *floor)[:2] == (0, "WITHIN_FLOOR")
    for plant in (lost, permuted, alternating, one_element):
        faulty = exact.clone()
        plant(faulty)
        assert compare.one(y, faulty.clamp(-400, 400).to(dtype), *floor)[:2] == (1, "EXCEEDS_FLOOR")
    spoilt = y.float()
    spoilt[1, 1] = NAN
    assert compare.one(y, spoilt.to(dtype), *floor)[:2] == (1, "NONFINITE")


def test_scale_exponents_are_exact(compare):
    scales = torch.tensor([[120, 127, 130]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    other = torch.tensor([[120, 128, 130]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    assert compare.one(scales, scales)[:2] == (0, "MATCH")
    assert compare.one(scales, other, "--floor", "derived:float32")[:2] == (1, "EXCEEDS_FLOOR")


def write_raw(path: Path, dtype: str, shape: list[int], payload: bytes) -> None:
    header = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(payload)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + payload)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "SOMETHING_NEW"])
def test_packed_and_unknown_dtypes_are_equal_in_every_byte_or_not_compared(compare, dtype):
    for payload, code, verdict in ((b"\x12\x34\x56\x78", 0, "MATCH"), (b"\x12\x34\x56\x79", 2, "NOT_COMPARED")):
        write_raw(compare.paths["oracle"], dtype, [8], b"\x12\x34\x56\x78")
        write_raw(compare.paths["sut"], dtype, [8], payload)
        found, text = compare.run("--floor", "derived:float32", "--json")
        assert (found, list(json.loads(text)["verdicts"])) == (code, [verdict])


def test_complex_numbers_are_two_reals(compare):
    z = torch.complex(values().float(), values(seed=1).float())
    floor = ("--floor", "derived:float32")
    assert compare.one(z, z)[:2] == (0, "MATCH")
    assert compare.one(z, z * 1.0000001, *floor)[:2] == (0, "WITHIN_FLOOR")
    turned = z.clone()
    turned[3, 200] *= 1j
    code, verdict, record = compare.one(z, turned, *floor)
    assert (code, verdict) == (1, "EXCEEDS_FLOOR")
    assert record["worst"][0]["where"].startswith("row 3")


@both_dtypes
@pytest.mark.parametrize("shape", [(), (1,), (7,), (129,), (2, 3, 130)])
def test_scalars_vectors_and_more_axes(compare, dtype, shape):
    g = torch.Generator().manual_seed(1)
    exact = 1 + torch.rand(shape, generator=g, dtype=torch.float64)
    floor = ("--floor", FLOORS[dtype])
    assert compare.one(exact.to(dtype), noisy(exact).to(dtype), *floor)[0] == 0
    code, verdict, _ = compare.one(exact.to(dtype), (1.03 * exact).to(dtype), *floor)
    assert (code, verdict) == (1, "EXCEEDS_FLOOR")
    faulty = exact.clone()
    if len(shape) == 3:
        faulty[1, 2] = 0
        assert compare.one(exact.to(dtype), faulty.to(dtype), *floor)[2]["worst"][0]["where"] == "row [1, 2]"
