"""Does `parity compare` refuse forty inputs made to harm it: in words, in little time and memory?"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from parity.compare import compare_paths
from parity.errors import ParityError
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.trace import MemoryTrace, save_trace

SECONDS, MEGABYTES = 20, 300
"""A hundred times what each takes, so that a busy machine is no failure; what one header of the largest size costs."""
MANIFEST, SHARD = "manifest.jsonl", "shard-00000.safetensors"
Line = dict[str, Any]


def write_trace(folder: Path) -> Path:
    """A whole trace of one capture [3, 4]: line 0 header, 1 capture, 2 end."""
    values = torch.arange(12.0).reshape(3, 4)
    rows = Rows(np.zeros(3, np.int32), np.arange(3))
    capture = Capture(0, "embed.out", None, "prefill", 0, 0, ("T", "D"), "float32", (3, 4), rows)
    recipe = Recipe("fp32", *["fp32"] * 6)
    environment = Environment("3", "2", None, None, "test", "none", 1, "cpu", False)
    run = Run("qwen3_moe", "m", 2, ("p",), ((1, 2, 3),), recipe, Lineage("r"), environment, ((None, "embed.out"),))
    save_trace(folder, MemoryTrace(run, (capture,), {0: values}))
    return folder


def rewrite(folder: Path, edit: Callable[[list[Line]], None]) -> None:
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    for line in lines:
        line.pop("chain")
    edit(lines)
    raw = b""
    for line in lines:
        raw += json.dumps(line).encode()[:-1] + b',"chain":'
        raw += b"%d}\n" % zlib.crc32(raw)
    (folder / MANIFEST).write_bytes(raw)


def capture_of(**keys: Any) -> Callable[[list[Line]], None]:
    return lambda lines: lines[1].update(keys)


def run_of(**keys: Any) -> Callable[[list[Line]], None]:
    return lambda lines: lines[0]["run"].update(keys)


def rows_of(**keys: Any) -> Callable[[list[Line]], None]:
    return lambda lines: lines[1]["rows"].update(keys)


def doubled(lines: list[Line]) -> None:
    lines.insert(2, {**lines[1], "number": 1})
    lines[-1]["captures"] = 2


MANIFESTS: dict[str, Callable[[list[Line]], None]] = {
    "two forms of rows": rows_of(request={"constant": 0, "start": 0, "count": 3}),
    "a range and a tensor": rows_of(position={"start": 0, "count": 3, "tensor": "rows.0", "crc": 0}),
    "one position thrice": rows_of(position={"constant": 1}),
    "a form of no kind": rows_of(position={"values": [0, 1, 2]}),
    "positions as a list": rows_of(position=[0, 1, 2]),
    "negative positions": rows_of(position={"start": -3, "count": 3}),
    "positions past 2^63": rows_of(position={"start": 2**63 - 2, "count": 3}),
    "positions near 2^62": rows_of(position={"start": 2**62, "count": 3}),
    "a payload as its own rows": rows_of(position={"tensor": "capture.0", "crc": 0}),
    "slots of token rows": rows_of(slot={"constant": 0}),
    "one request under two names": run_of(request_names=["p", "p"], requests=[[1, 2, 3], [1, 2, 3]]),
    "names in other alphabets that look alike": run_of(request_names=["\u0440"]),
    "a name that turns the line": run_of(request_names=["p\u202e\x1b[31m"]),
    "layers without end": run_of(layers=10**12),
    "layers that are none": run_of(layers=-1),
    "another depth": run_of(layers=3),
    "another family": run_of(family="../../etc/passwd"),
    "declared stages that are none": run_of(declared=[[0, "moe.gate\x00"]]),
    "a graft declared": run_of(flags={"grafts": ["embed.out"]}),
    "flags as a list": run_of(flags=[]),
    "a deep flag": run_of(flags={"a": json.loads("[" * 500 + "]" * 500), "grafts": "x"}),
    "a hundred thousand grafts": run_of(flags={"grafts": [[n, "x" * 20] for n in range(100_000)]}),
    "absent rows that are no mapping": run_of(flags={"absent": [[1]]}, requests=[[1, 2, 4]]),
    "a prefill of step 3": capture_of(step=3),
    "a draft": capture_of(model="draft"),
    "a partial sum": capture_of(reduction="partial"),
    "a shard of a tensor": capture_of(placement={"global_shape": [3, 8], "offset": [0, 0], "rank": 0}),
    "a capture twice": doubled,
    "a shard by a path": capture_of(shard="../" + SHARD),
    "a shard in other digits": capture_of(shard="shard-\u0660\u0660\u0660\u0660\u0660.safetensors"),
    "a width of zero": capture_of(shape=[3, 0]),
    "a shape of floats": capture_of(shape=[3.0, 4.0]),
}


def header(**tensors: Any) -> bytes:
    raw = json.dumps(tensors).encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> Line:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


PLAIN: dict[str, Callable[[Path], object]] = {
    "a pipe in the folder": lambda at: os.mkfifo(at / "b.safetensors"),
    "a folder called like a file": lambda at: (at / "b.safetensors").mkdir(),
    "a link to nowhere": lambda at: (at / "b.safetensors").symlink_to(at / "nowhere"),
    "a link to itself": lambda at: (at / "b.safetensors").symlink_to(at / "b.safetensors"),
    "a device": lambda at: (at / "b.safetensors").symlink_to("/dev/zero"),
    "an archive": lambda at: (at / "b.safetensors").write_bytes(b"PK\x03\x04" + bytes(4096)),
    "a pickle": lambda at: (at / "b.safetensors").write_bytes(b"\x80\x04\x95" + b"cos\nsystem\n" * 10),
    "overlapping tensors": lambda at: (at / "b.safetensors").write_bytes(
        header(x=entry([2], [0, 8]), y=entry([2], [4, 12])) + bytes(12)
    ),
    "a size past all numbers": lambda at: (at / "b.safetensors").write_bytes(
        header(x=entry([2**62] * 16, [0, 8])) + bytes(8)
    ),
    "an offset that is true": lambda at: (at / "b.safetensors").write_bytes(
        header(x=entry([1], [False, 4])) + bytes(4)
    ),
    "a header of blanks": lambda at: (at / "b.safetensors").write_bytes(struct.pack("<Q", 1 << 20) + b" " * (1 << 20)),
    "a sparse terabyte": lambda at: sparse(at / "b.safetensors"),
}


def sparse(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 39))
    os.truncate(path, 1 << 40)


def stop(*_: object) -> None:
    raise AssertionError(f"not refused within {SECONDS} s")


def answer(oracle: Path, sut: Path) -> str:
    """What is said of the pair; never a clean bill, and nothing but a ParityError."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        summary = compare_paths(oracle=oracle, sut=sut, floor="derived:float32")
        assert not summary.healthy, summary
        return "; ".join(record.reason for record in summary.comparisons)
    except ParityError as error:
        four = (error.place, error.expected, error.found, error.next_step)
        return str(error) if all(four) and len(str(error)) < 4000 else ""
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024 < MEGABYTES


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(tmp_path, name):
    oracle, sut = write_trace(tmp_path / "oracle"), write_trace(tmp_path / "sut")
    assert compare_paths(oracle=oracle, sut=sut).healthy
    rewrite(sut, MANIFESTS[name])
    assert answer(oracle, sut)
    assert answer(sut, oracle)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files(tmp_path, name):
    for side in ("oracle", "sut"):
        (tmp_path / side).mkdir()
        save_file({"a": torch.arange(8.0)}, tmp_path / side / "a.safetensors")
    assert compare_paths(oracle=tmp_path / "oracle", sut=tmp_path / "sut").healthy
    PLAIN[name](tmp_path / "sut")
    assert "b.safetensors" in answer(tmp_path / "oracle", tmp_path / "sut")
    assert "b.safetensors" in answer(tmp_path / "sut", tmp_path / "oracle")
    assert "b.safetensors" in answer(tmp_path / "oracle", tmp_path / "sut" / "b.safetensors")
