"""Are names, folders, headers and the table of `parity compare` what the files say, however hostile?"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from parity.compare import Outcome, compare_files, compare_paths
from parity.errors import UsageError
from parity.floor import derive_floor
from tests.cli.comparing import noisy, values


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


def test_the_outcome_of_a_summary_without_a_floor_says_how_to_get_a_verdict(compare):
    compare({"x": torch.ones(3)}, {"x": torch.ones(3) * 2})
    outcome = Outcome(compare_files(**compare.paths))
    assert outcome.exit_code == 2
    assert outcome.power is None
    assert replace(outcome, floor=derive_floor("float32")).floor_label == "derived:float32"
