"""Does `parity compare` give each hole of published comparators its verdict and exit code, on files and on traces?"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity.cli import app
from parity.compare import Outcome, compare_files, compare_paths
from parity.errors import TraceError, UsageError
from parity.floor import derive_floor
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.trace import MemoryTrace, save_trace

INF, NAN = float("inf"), float("nan")
ROWS, WIDTH = 64, 256
Tensors = dict[str, torch.Tensor]


class Compare:
    """Writes both sides into a folder and runs the command in this process."""

    def __init__(self, folder: Path) -> None:
        self.paths = {side: folder / f"{side}.safetensors" for side in ("oracle", "sut")}

    def run(self, *options: str) -> tuple[int, str]:
        sides = [f"--{side}={path}" for side, path in self.paths.items()]
        done = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["compare", *sides, *options])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    def __call__(self, oracle: Tensors, sut: Tensors, *options: str) -> tuple[int, dict]:
        for side, tensors in (("oracle", oracle), ("sut", sut)):
            save_file({name: t.contiguous().clone() for name, t in tensors.items()}, self.paths[side])
        code, text = self.run(*options, "--json")
        return code, json.loads(text)

    def one(self, oracle: torch.Tensor, sut: torch.Tensor, *options: str) -> tuple[int, str, dict]:
        code, told = self({"x": oracle}, {"x": sut}, *options)
        (record,) = told["comparisons"]
        assert told["verdicts"] == {record["verdict"]: 1}
        assert told["exit_code"] == code
        return code, record["verdict"], record


@pytest.fixture
def compare(tmp_path):
    return Compare(tmp_path)


def values(rows: int = ROWS, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(exact: torch.Tensor, seed: int = 7) -> torch.Tensor:
    """fp32 accumulation error of a product of some thousand terms: 20 units."""
    g = torch.Generator().manual_seed(seed)
    return exact + 20 * 2.0**-24 * torch.randn(exact.shape, generator=g, dtype=torch.float64)


FLOORS = {torch.float32: "derived:float32", torch.bfloat16: "derived:bfloat16"}
both_dtypes = pytest.mark.parametrize("dtype", FLOORS)


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


def test_what_one_side_lacks_is_never_dropped(compare):
    x = values().float()
    code, told = compare({"a": x, "b": x}, {"a": x}, "--floor", "derived:float32")
    assert (code, told["verdicts"]) == (1, {"MATCH": 1, "MISSING_IN_SUT": 1})
    assert told["first_divergence"]["name"] == "b"
    code, told = compare({"a": x}, {"a": x, "b": x}, "--floor", "derived:float32")
    assert (code, told["verdicts"]) == (2, {"MATCH": 1, "MISSING_IN_ORACLE": 1})
    code, told = compare({"a": x}, {"b": x})
    assert code == 1
    assert "No name is on both sides" in told["next_step"]
    code, told = compare({}, {})
    assert (code, told["comparisons"]) == (2, [])
    assert "no success" in told["next_step"]


def test_the_first_divergence_goes_by_natural_order_of_names(compare):
    exact = {f"layers.{n}.out": values(8, 16, n) for n in (0, 2, 10)}
    sut = {name: t.bfloat16() for name, t in exact.items()}
    sut["layers.10.out"] = -sut["layers.10.out"]
    sut["layers.2.out"] = sut["layers.2.out"] * 1.5
    oracle = {name: t.bfloat16() for name, t in exact.items()}
    code, told = compare(oracle, sut, "--floor", "derived:bfloat16")
    assert [c["name"] for c in told["comparisons"]] == ["layers.0.out", "layers.2.out", "layers.10.out"]
    assert told["first_divergence"]["name"] == "layers.2.out"
    assert told["first_divergence"]["in_order_of"] == "natural order of names"
    assert code == 1


def test_what_is_too_small_to_show_one_percent_is_told(compare):
    code, told = compare(
        {"scalar": torch.tensor(1.5).bfloat16(), "x": values().bfloat16()},
        {"scalar": torch.tensor(1.508).bfloat16(), "x": noisy(values()).bfloat16()},
        "--floor", "derived:bfloat16",
    )  # fmt: skip
    assert code == 0
    assert told["power"]["blind_tensors"] == ["scalar"]
    assert told["power"]["weakest"] == "scalar"
    assert 0.01 < told["power"]["scale_seen"] < 0.02
    _, text = compare.run("--floor", "derived:bfloat16")
    assert "1 of 2 tensors" in " ".join(text.split())


def test_values_of_subnormal_size_have_no_power(compare):
    tiny = torch.full((4, 8), 2.0**-133, dtype=torch.float64).bfloat16()
    assert compare.one(tiny, 2 * tiny, "--floor", "derived:bfloat16")[:2] == (2, "NO_POWER")


def test_more_roundings_are_allowed_by_name(compare):
    exact = values()
    g = torch.Generator().manual_seed(3)
    twice = exact * (1 + 2.0**-8 * torch.randn(exact.shape, generator=g))
    y, x = exact.bfloat16(), twice.bfloat16()
    assert compare.one(y, x, "--floor", "derived:bfloat16")[0] == 1
    code, told = compare({"x": y}, {"x": x}, "--floor", "derived:bfloat16:4")
    assert (code, told["floor"]) == (0, "derived:bfloat16:4")


def test_the_terminal_survives_hostile_names_and_a_thousand_tensors(compare):
    hostile = "[/red]\x1b[31mred\x07\n\u202egnp[bold]" + "x" * 300
    x = {f"t{n}": torch.ones(2) for n in range(1000)} | {hostile: torch.ones(2)}
    y = {name: t.clone() for name, t in x.items()}
    y[hostile] = -y[hostile]
    compare(x, y)
    code, text = compare.run("--floor", "derived:float32", "--top", "5")
    assert code == 1
    assert len(text.splitlines()) < 40
    assert "996 more" in text
    for character in ("\x1b", "\x07", "\u202e"):
        assert character not in text
    assert "[/red]\\x1b[31mred" in text
    for piece in ("EXCEEDS_FLOOR", "rel_l2", "cosine", "norm_ratio", "slope", "over floor", "Compared: 1001", "Next:"):
        assert piece in text


def test_folders_and_refusals(compare, tmp_path):
    x = values(4, 8).float()
    for side in ("oracle", "sut"):
        folder = tmp_path / side
        folder.mkdir()
        save_file({"b": x}, folder / "2.safetensors")
        save_file({"a": x}, folder / "1.safetensors")
    summary = compare_paths(oracle=tmp_path / "oracle", sut=tmp_path / "sut", floor="derived:float32")
    assert [c.name for c in summary.comparisons] == ["a", "b"]
    assert summary.healthy
    save_file({"a": x}, tmp_path / "sut" / "3.safetensors")
    with pytest.raises(UsageError, match="again"):
        compare_paths(oracle=tmp_path / "oracle", sut=tmp_path / "sut")
    with pytest.raises(UsageError, match="nothing there"):
        compare_paths(oracle=tmp_path / "oracle", sut=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="neither"):
        compare_paths(oracle=tmp_path / "oracle", sut=tmp_path / "empty")


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:4],
        lambda raw: (2**60).to_bytes(8, "little") + raw[8:],
        lambda raw: raw + b"\0",
        lambda raw: raw[:-1],
        lambda raw: raw.replace(b"F32", b"F64"),
        lambda raw: raw.replace(b"[0,128]", b"[0,999]"),
        lambda raw: raw[:8] + b"[" + raw[9:],
    ],
)
def test_files_whose_header_lies_are_refused(compare, damage):
    save_file({"x": values(4, 8).float()}, compare.paths["oracle"])
    compare.paths["sut"].write_bytes(damage(compare.paths["oracle"].read_bytes()))
    with pytest.raises(UsageError):
        compare_files(**compare.paths)


def test_an_odd_header_is_read_all_the_same(compare):
    payload = values(4, 8).float().numpy().tobytes()
    for side, pad in (("oracle", b""), ("sut", b" ")):
        header = json.dumps({"x": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}}).encode() + pad
        compare.paths[side].write_bytes(len(header).to_bytes(8, "little") + header + payload)
    assert compare_files(**compare.paths).healthy


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
# A column block of 128 keeps its sums to the end, some 250 bytes of them: of one row of 1e8 columns that is the limit.
@pytest.mark.parametrize("shape", [(20_000, 8192), (40_000_000, 2), (1, 60_000_000)])
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


ENVIRONMENT = Environment("3", "2", None, None, "test", "none", 1, "cpu", False)


def trace(folder: Path, plant=None, *, root="synthetic", ids=(3, 1, 4, 1, 5), model="m") -> Path:
    """A trace of two stages of two layers in bf16, with fp32 accumulation noise that differs by `model`."""
    recipe = Recipe("bf16", "bf16", "bf16", "fp32", "fp32", "bf16", "bf16")
    sites = [(0, "attn.norm"), (0, "mlp.norm"), (1, "attn.norm"), (1, "mlp.norm")]
    captures, tensors = [], {}
    for number, (layer, stage) in enumerate(sites):
        exact = noisy(values(len(ids), 256, number), seed=len(model) + number)
        if plant is not None:
            plant(layer, stage, exact)
        rows = Rows(np.zeros(len(ids), np.int32), np.arange(len(ids), dtype=np.int64))
        tensors[number] = exact.bfloat16()
        shape = (len(ids), 256)
        captures.append(Capture(number, stage, layer, "prefill", 0, 0, ("T", "D"), "bfloat16", shape, rows))
    run = Run("qwen3_moe", model, 2, ("prompt",), (tuple(ids),), recipe, Lineage(root), ENVIRONMENT, tuple(sites))
    save_trace(folder, MemoryTrace(run, tuple(captures), tensors))
    return folder


def cli(*arguments: object) -> tuple[int, dict]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_traces_are_judged_by_a_derived_floor_in_order_of_computation(tmp_path):
    def plant(layer, stage, x):
        if layer == 1:
            x[3] *= 1.02

    a, b, c = trace(tmp_path / "a"), trace(tmp_path / "b", model="other"), trace(tmp_path / "c", plant, model="other")
    code, told = cli("--oracle", a, "--sut", b, "--floor", "derived:bfloat16")
    assert (code, told["verdicts"]) == (0, {"WITHIN_FLOOR": 4})
    assert told["power"]["scale_seen"] < 0.01
    code, told = cli("--oracle", a, "--sut", c, "--floor", "derived:bfloat16")
    assert (code, told["verdicts"]) == (1, {"WITHIN_FLOOR": 2, "EXCEEDS_FLOOR": 2})
    assert told["first_divergence"]["name"] == "L01.attn.norm"
    assert told["first_divergence"]["where"] == "position 3"
    assert told["first_divergence"]["in_order_of"] == "order of computation"
    assert cli("--oracle", a, "--sut", b)[0] == 2
    assert cli("--oracle", a, "--sut", a)[0] == 0


def test_traces_that_may_not_be_compared_are_refused(tmp_path):
    a, b = trace(tmp_path / "a"), trace(tmp_path / "b", root="another")
    with pytest.raises(TraceError, match="lineage"):
        cli("--oracle", a, "--sut", b)
    code, _ = cli("--oracle", a, "--sut", b, "--same-model-because", "converted by hand")
    assert code == 0
    other = trace(tmp_path / "ids", ids=(3, 1, 4, 1, 6))
    with pytest.raises(TraceError, match="position 4"):
        cli("--oracle", a, "--sut", other, "--same-model-because", "anything")
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(2)}, file)
    with pytest.raises(UsageError, match="is a trace"):
        cli("--oracle", a, "--sut", file)


def test_the_outcome_of_a_summary_without_a_floor_says_how_to_get_a_verdict(compare):
    compare({"x": torch.ones(3)}, {"x": torch.ones(3) * 2})
    outcome = Outcome(compare_files(**compare.paths))
    assert outcome.exit_code == 2
    assert outcome.power is None
    assert replace(outcome, floor=derive_floor("float32")).floor_label == "derived:float32"
