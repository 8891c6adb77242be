"""Foreign dumps become the trace that they are, and hostile ones are refused with the file's name."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import ConfigError, ParityError, TraceError, UsageError
from parity.importers import import_dump, read_map
from parity.importers.tensors import read_tensor
from parity.trace import diff_traces, open_trace, verify_trace

PAGE = Path(__file__).resolve().parents[2] / "docs/importing.md"
RUN = {"family": "qwen3_moe", "model": "m", "layers": 3, "request_names": ["a"], "requests": [[5, 6, 7, 8, 9]],
       "recipe": "fp32", "lineage": {"root": "sha256:00"}}  # fmt: skip
TOPK = np.array([[1, 0], [2, 3], [0, 3], [3, 1], [1, 2]], np.int32)


def numbers(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


Make = Callable[..., Any]


@pytest.fixture
def bring(tmp_path: Path) -> Make:
    """bring(files, **map): a dump of those arrays, imported."""

    def run(files: dict[str, Any], **content: Any) -> Any:
        dump = tmp_path / "dump"
        dump.mkdir(exist_ok=True)
        for name, array in files.items():
            np.save(dump / f"{name}.npy", array)
        (tmp_path / "map.json").write_text(json.dumps({"run": RUN, **content}))
        import_dump(dump, read_map(tmp_path / "map.json"), tmp_path / "trace")
        return open_trace(tmp_path / "trace")

    return run


def one(trace: Any, stage: str, layer: int | None = None) -> torch.Tensor:
    (capture,) = trace.select(stage=stage, layer=layer)
    return trace.tensor(capture)


def test_names_of_stages_need_no_map(bring: Make, tmp_path: Path):
    gate, logits = numbers(5, 2, 7), numbers(5, 11)
    trace = bring({"L02.moe.gate": gate, "L02.moe.topk_ids": TOPK, "logits": logits})
    assert trace.complete
    assert verify_trace(tmp_path / "trace").missing == ()
    assert torch.equal(one(trace, "moe.gate", 2), torch.from_numpy(gate).reshape(10, 7))
    assert torch.equal(one(trace, "logits"), torch.from_numpy(logits))
    (capture,) = trace.select(stage="moe.gate")
    assert capture.rows.position.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert capture.rows.slot.tolist() == [0, 1] * 5
    assert capture.rows.expert.tolist() == TOPK.flatten().tolist()


@pytest.mark.parametrize(
    ("axes", "turn"),
    [
        (["T", "H", "K"], lambda x: x),
        (["1", "T", "H", "K"], lambda x: x[None]),
        (["T", "HK"], lambda x: x.reshape(5, 12)),
        (["H", "T", "K"], lambda x: x.transpose(1, 0, 2)),
        (["K", "1", "H", "T"], lambda x: x.transpose(2, 1, 0)[:, None]),
        (["T", "KH"], lambda x: x.transpose(0, 2, 1).reshape(5, 12)),
    ],
)
@pytest.mark.parametrize("layout", ["row-major", "column-major", "big-endian", "both"])
def test_axes_and_layouts_are_turned(bring: Make, axes: list[str], turn: Any, layout: str):
    want = numbers(5, 3, 4)
    given = turn(want)
    if layout in ("column-major", "both"):
        given = np.asfortranarray(given)
    if layout in ("big-endian", "both"):
        given = given.astype(">f4")
    trace = bring(
        {"q-1": given}, pattern="{name}-{layer}", stages={"q": {"stage": "attn.q", "axes": axes}}, sizes={"K": 4}
    )
    assert torch.equal(one(trace, "attn.q", 1), torch.from_numpy(want))


def test_expert_rows_as_one_axis(bring: Make):
    rows = numbers(10, 7)
    trace = bring({"L00.moe.gate": rows, "L00.moe.topk_ids": TOPK}, sizes={"S": 2})
    assert torch.equal(one(trace, "moe.gate", 0), torch.from_numpy(rows))
    assert trace.select(stage="moe.gate")[0].rows.expert.tolist() == TOPK.flatten().tolist()


def test_steps_and_chunks_run_on(bring: Make):
    files = {f"L00.attn.norm.{step}.{chunk}": numbers(rows, 4, seed=step + chunk)
             for step, chunk, rows in ((0, 0, 2), (0, 1, 1), (1, 0, 1), (2, 0, 1))}  # fmt: skip
    trace = bring(files, pattern="{site}.{step}.{chunk}")
    assert [(c.phase, c.step, c.chunk, c.rows.position.tolist()) for c in trace.captures] == [
        ("prefill", 0, 0, [0, 1]), ("prefill", 0, 1, [2]), ("decode", 1, 0, [3]), ("decode", 2, 0, [4]),
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("offset", [0, 3])
def test_raw_files_with_a_sidecar(tmp_path: Path, order: str, byteorder: str, offset: int):
    want = numbers(5, 4)
    raw = want.astype(">f4" if byteorder == "big" else "<f4").tobytes(order)  # type: ignore[arg-type]
    (tmp_path / "x.bin").write_bytes(b"x" * offset + raw)
    said = {"dtype": "float32", "shape": [5, 4], "order": order, "byteorder": byteorder, "offset": offset}
    (tmp_path / "x.json").write_text(json.dumps(said))
    assert torch.equal(read_tensor(tmp_path / "x.bin"), torch.from_numpy(want))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float8_e4m3fn", "int64", "bool", "float64"])
def test_every_dtype_keeps_its_bits(tmp_path: Path, kind: str):
    want = torch.from_numpy(numbers(3, 5)).to(getattr(torch, kind))
    width = want.element_size()
    (tmp_path / "x.bin").write_bytes(want.view(torch.uint8).numpy().tobytes())
    (tmp_path / "x.json").write_text(json.dumps({"dtype": kind, "shape": [3, 5]}))
    assert torch.equal(read_tensor(tmp_path / "x.bin").view(torch.uint8), want.view(torch.uint8))
    np.save(tmp_path / "y.npy", want.view(torch.uint8).numpy().view(f"u{width}"))
    found = read_tensor(tmp_path / "y.npy", kind)
    assert (found.dtype, torch.equal(found.view(torch.uint8), want.view(torch.uint8))) == (want.dtype, True)


class Planted:
    def __reduce__(self) -> Any:
        return os.system, ("touch planted",)


def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    good = tmp_path / "good.npy"
    np.save(good, numbers(4, 4))
    raw = good.read_bytes()
    header = raw[:128]
    assert b"(4, 4)" in header
    cases: dict[str, bytes] = {
        "short": raw[:-1],
        "long": raw + b"x",
        "huge shape": raw.replace(b"(4, 4), }" + b" " * 22, b"(4611686018427387904, 4611686018427387904), }"[:31]),
        "overflow": raw.replace(b"(4, 4), }          ", b"(4294967296,4294967296), }"[:19]),
        "negative": raw.replace(b"(4, 4), ", b"(-4,-4),"),
        "no header": b"\x93NUMPY\x01\x00",
        "a later version": raw[:6] + b"\x09" + raw[7:],
        "not one": b"PK\x03\x04" + raw,
        "empty": b"",
        "code": raw.replace(b"(4, 4)", b"open()"),
    }
    for name, content in cases.items():
        (tmp_path / f"{name}.npy").write_bytes(content)
    np.save(tmp_path / "objects.npy", np.array([Planted()], object), allow_pickle=True)
    np.save(tmp_path / "structure.npy", np.zeros(3, [("a", "f4"), ("b", "i4")]))
    np.save(tmp_path / "complex.npy", np.zeros(3, np.complex64))
    np.save(tmp_path / "unsigned.npy", np.zeros(3, np.uint32))
    np.save(tmp_path / "long double.npy", np.zeros(3, np.longdouble))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Planted()))
    (tmp_path / "link.npy").symlink_to(good)
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    names = sorted(path for path in tmp_path.glob("*.npy") if path != good)
    assert len(names) == len(cases) + 10
    for path in names:
        with pytest.raises(TraceError, match=re.escape(path.name)):
            read_tensor(path)
    assert not (tmp_path / "planted").exists()
    with pytest.raises(TraceError, match="4 bytes"):
        read_tensor(good, "bfloat16")


@pytest.mark.parametrize(
    "sidecar",
    [
        "", "[]", "{", '{"dtype": "float32"}', '{"dtype": "float32", "shape": [2, -2]}',
        '{"dtype": "f4", "shape": [4]}',
        '{"dtype": "float32", "shape": [5]}', '{"dtype": "float32", "shape": [4611686018427387904, 4]}',
        '{"dtype": "float32", "shape": [4], "offset": -1}', '{"dtype": "float32", "shape": [4], "order": "A"}',
        '{"dtype": "float32", "shape": [4], "file": "/etc/passwd"}', '{"dtype": "float32", "shape": [true, 4]}',
        '{"dtype": "float32", "shape": [4], "shape": [4]}', '{"dtype": "float32", "shape": "4"}',
    ],
)  # fmt: skip
def test_hostile_sidecars_are_refused(tmp_path: Path, sidecar: str):
    (tmp_path / "x.bin").write_bytes(bytes(16))
    (tmp_path / "x.json").write_text(sidecar)
    with pytest.raises(TraceError):
        read_tensor(tmp_path / "x.bin")


def test_a_missing_or_linked_sidecar_is_refused(tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(bytes(16))
    with pytest.raises(TraceError, match=r"x\.json"):
        read_tensor(tmp_path / "x.bin")
    (tmp_path / "other").write_text('{"dtype": "float32", "shape": [4]}')
    (tmp_path / "x.json").symlink_to("other")
    with pytest.raises(TraceError, match="symbolic link"):
        read_tensor(tmp_path / "x.bin")


X = numbers(5, 4)


@pytest.mark.parametrize(
    ("files", "content", "said"),
    [
        ({}, {}, "no file at all"),
        ({"unknown": X}, {}, "know, or ignore"),
        ({"L09.attn.norm": X}, {}, "a layer below 3"),
        (
            {"a-0": X, "b-0": X},
            {"pattern": "{name}-{layer}", "stages": {"a": "attn.norm", "b": "attn.norm"}},
            "one file a",
        ),
        (
            {"a-0": X},
            {"pattern": "{name}-{layer}", "stages": {"a": "attn.norm", "b": "attn.out"}},
            "every name of the map",
        ),
        ({"L00.attn.norm": X, "L00.attn.out": X[:4]}, {}, "as many tokens"),
        ({"L00.attn.norm": X[None]}, {}, "axes ['T', 'D']"),
        ({"L00.attn.norm": X}, {"sizes": {"D": 5}}, "D of size 5"),
        ({"L00.moe.gate": numbers(5, 2, 3)}, {}, "moe.topk_ids of its layer"),
        ({"L00.moe.gate": numbers(5, 2, 3), "L00.moe.topk_ids": TOPK[:, :1]}, {}, "expert ids of 5 tokens and 2 slots"),
        ({"L00.moe.gate": numbers(9, 3), "L00.moe.topk_ids": TOPK}, {"sizes": {"S": 2}}, "(token, slot) order"),
        ({"L00.moe.gate": numbers(10, 3), "L00.moe.topk_ids": TOPK}, {}, "the size of S"),
        ({"L00.attn.norm.7": X}, {"pattern": "{site}.{request}"}, "a request below 1"),
    ],
)
def test_dumps_that_the_map_does_not_fit(bring: Make, tmp_path: Path, files: Any, content: Any, said: str):
    with pytest.raises(ParityError) as refusal:
        bring(files, **content)
    assert said in str(refusal.value)
    if (tmp_path / "trace").exists():  # begun, and never a complete trace
        assert not verify_trace(tmp_path / "trace").complete


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"pattern": "{nothing}"}, UsageError),
        ({"pattern": "{site}{site}"}, UsageError),
        ({"pattern": "plain"}, UsageError),
        ({"pattern": 3}, UsageError),
        ({"stages": {"a": "attn.other"}}, ConfigError),
        ({"stages": {"a": 3}}, UsageError),
        ({"stages": {"a": {"stage": "attn.q", "axes": ["T", "H"]}}}, UsageError),
        ({"stages": {"a": {"stage": "attn.q", "axes": ["T", "H", "K", "K"]}}}, UsageError),
        ({"stages": {"a": {"stage": "attn.q", "axes": ["T", "H1K"]}}}, UsageError),
        ({"sizes": {"K": 0}}, UsageError),
        ({"ignore": [3]}, UsageError),
        ({"run": {}}, TraceError),
        ({"run": 3}, UsageError),
        ({"other": 3}, UsageError),
    ],
)
def test_maps_that_make_no_sense(tmp_path: Path, content: Any, error: type[ParityError]):
    (tmp_path / "map.json").write_text(json.dumps({"run": RUN, **content}))
    with pytest.raises(error):
        read_map(tmp_path / "map.json")


def test_the_page_s_example_and_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from parity import cli

    page = PAGE.read_text()
    (example,) = re.findall(r"<!-- example -->\n```json\n(.*?)```", page, flags=re.DOTALL)
    (commands,) = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.json").write_text(example)
    gate = torch.from_numpy(numbers(3, 2, 6)).bfloat16()
    dump = tmp_path / "dump"
    dump.mkdir()
    np.save(dump / "blk.0.attn_norm.npy", numbers(3, 8))
    np.save(dump / "blk.0.Qcur.npy", numbers(1, 3, 8))
    np.save(dump / "blk.0.ffn_moe_topk.npy", TOPK[:3])
    np.save(dump / "blk.0.ffn_moe_gate.npy", gate.view(torch.int16).numpy().view(np.uint16))
    np.save(dump / "blk.0_tmp.npy", numbers(1))
    for layout in ("runs/oracle",):
        import_dump(dump, read_map(tmp_path / "map.json"), tmp_path / layout)
    for line in commands.splitlines():
        monkeypatch.setattr(sys, "argv", line.removeprefix("$ ").split())
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        assert end.value.code == 0, printed
    trace = open_trace(tmp_path / "runs/sut")
    assert torch.equal(one(trace, "moe.gate", 0), gate.reshape(6, 6))
    assert one(trace, "attn.q", 0).shape == (3, 2, 4)
    assert diff_traces(tmp_path / "runs/sut", tmp_path / "runs/oracle").same
