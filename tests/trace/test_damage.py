"""Is every kind of damage refused, by name? Each test plants one defect in a trace that verifies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import TraceError
from parity.records import Capture, Run
from parity.trace import TraceWriter, open_trace, verify_trace

Line = dict[str, Any]
Make = Callable[..., Capture]
SHARD = "shard-00000.safetensors"


@pytest.fixture
def folder(tmp_path: Path, run: Run, token_capture: Make, expert_capture: Make) -> Path:
    """A whole trace of two captures in one shard: line 0 header, 1 and 2 captures, 3 end."""
    writer = TraceWriter(tmp_path / "t", run)
    embed, gate = torch.randn(5, 4), torch.randn(10, 6).bfloat16()
    writer.add(token_capture(0, embed), embed)
    writer.add(expert_capture(1, gate), gate)
    writer.close()
    return tmp_path / "t"


def lines_of(folder: Path) -> list[Line]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def write_lines(folder: Path, lines: list[Line]) -> None:
    """Write a manifest whose chain is right, so that only the planted defect can be what is refused."""
    raw = b""
    for line in lines:
        raw += json.dumps({key: value for key, value in line.items() if key != "chain"})[:-1].encode() + b',"chain":'
        raw += b"%d}\n" % zlib.crc32(raw)
    (folder / "manifest.jsonl").write_bytes(raw)


def plant(folder: Path, number: int, change: Callable[[Line], Any]) -> None:
    lines = lines_of(folder)
    change(lines[number])
    write_lines(folder, lines)


def set_key(path: str, value: Any) -> Callable[[Line], None]:
    def change(line: Line) -> None:
        *outer, last = path.split(".")
        for key in outer:
            line = line[key]
        line[last] = value

    return change


def test_rewriting_the_lines_alone_is_no_damage(folder: Path) -> None:
    write_lines(folder, lines_of(folder))
    assert verify_trace(folder).captures == 2


# (line, key, what is planted, what the message must say)
NONSENSE: list[tuple[int, str, Any, str]] = [
    (0, "version", 2, "format version 1"),
    (0, "version", True, "format version 1"),
    (0, "format", "other", "parity-trace"),
    (0, "kind", "capture", "a header"),
    (0, "run", [], "an object"),
    (0, "run.requests", [[1], ["x"]], "run.requests"),
    (0, "run.requests", [[1, -2], [3]], "run.requests"),
    (0, "run.request_names", ["a"], "2 names"),
    (0, "run.layers", -1, "run.layers"),
    (0, "run.layers", 10**9, "at most 4096"),
    (0, "run.declared", [[0, "moe.gaet"]], "run.declared"),
    (0, "run.declared", [[0, ["moe.gate"]]], "run.declared"),
    (0, "run.recipe", {"name": "bf16"}, "weights"),
    (0, "run.recipe.weights", 4, "recipe.weights"),
    (0, "run.lineage.root", None, "lineage.root"),
    (0, "run.environment.threads", "many", "environment.threads"),
    (0, "run.flags", 3, "run.flags"),
    (1, "stage", "embed.uot", "stage of the vocabulary"),
    (1, "stage", ["embed.out"], "stage of the vocabulary"),
    (2, "layer", 2, "below 2"),
    (2, "layer", True, "below 2"),
    (1, "phase", "prefil", "prefill or decode"),
    (1, "step", -1, "step"),
    (1, "axes", ["D", "T"], "axes"),
    (1, "dtype", "float31", "dtype"),
    (1, "dtype", "int32", "dtype and shape"),
    (1, "shape", [4, 5], "dtype and shape"),
    (1, "shape", [5, 4, 1], "2 sizes"),
    (1, "shape", [10**18, 0], "size of zero"),
    (1, "shape", [2**70, 1], "2 sizes"),
    (1, "crc", None, "crc"),
    (1, "number", 1, "a number above"),
    (1, "tensor", "capture.9", "none of that name"),
    (2, "tensor", "capture.0", "dtype and shape"),
    (1, "shard", "shard-00001.safetensors", "a plain file"),
    (1, "shard", "../t/shard-00000.safetensors", "without a folder"),
    (1, "shard", "/etc/passwd", "without a folder"),
    (1, "shard", "..", "without a folder"),
    (1, "shard", "sub/shard-00000.safetensors", "without a folder"),
    (1, "shard", "shard-00000.safetensors\n", "without a folder"),
    (1, "shard", "shard-00000.safetensors\x00", "without a folder"),
    (1, "reduction", "sum", "complete or partial"),
    (1, "model", "other", "target or draft"),
    (1, "geometry", [1], "geometry"),
    (1, "placement", "rank 1", "placement"),
    (1, "rows", {"request": {"constant": 0}}, "request and position"),
    (1, "rows.position", {"start": 0, "count": 4}, "5 rows"),
    (1, "rows.position", {"start": 0, "count": 10**15}, "5 rows"),
    (1, "rows.position", {"start": -1, "count": 5}, "5 rows"),
    (1, "rows.position", {"constant": 1.5}, "5 rows"),
    (1, "rows.request", {"constant": 2}, "below 2"),
    (1, "rows.request", {"constant": 2**31}, "up to 2147483647"),
    (2, "rows.position", {"tensor": "capture.1", "crc": 0}, "10 rows"),
    (2, "rows.position", {"tensor": "rows.0", "crc": 0}, "CRC-32"),
    (3, "captures", 3, "3 captures"),
    (3, "shards", 0, "in 0 shards"),
]


@pytest.mark.parametrize(("line", "key", "value", "said"), NONSENSE, ids=[f"{n[1]}={n[2]!r:.30}" for n in NONSENSE])
def test_a_line_that_says_nonsense_is_refused(folder: Path, line: int, key: str, value: Any, said: str) -> None:
    plant(folder, line, set_key(key, value))
    with pytest.raises(TraceError) as caught:
        open_trace(folder)
    error = caught.value
    assert said in str(error)
    assert str(folder) in error.place
    assert all((error.expected, error.found, error.next_step))


def test_a_payload_is_named_once(folder: Path) -> None:
    lines = lines_of(folder)
    write_lines(folder, [*lines[:3], {**lines[2], "number": 2}, {**lines[3], "captures": 3}])
    with pytest.raises(TraceError, match="listed twice"):
        open_trace(folder)


def test_nothing_may_follow_the_end(folder: Path) -> None:
    lines = lines_of(folder)
    write_lines(folder, [*lines, lines[3]])
    with pytest.raises(TraceError, match="nothing after the end"):
        open_trace(folder)


def test_unknown_keys_and_kinds_are_left_alone(folder: Path) -> None:
    plant(folder, 1, set_key("colour", "red"))
    lines = lines_of(folder)
    write_lines(folder, [*lines[:3], {"kind": "remark"}, lines[3]])
    assert verify_trace(folder).captures == 2


@pytest.mark.parametrize("number", range(4))
def test_an_altered_byte_anywhere_breaks_the_chain(folder: Path, number: int) -> None:
    path = folder / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    digit = next(at for at in range(len(lines[number]) - 1, 0, -1) if lines[number][at : at + 1].isdigit())
    for at in (1, digit):
        changed = bytearray(lines[number])
        changed[at] ^= 0x01
        path.write_bytes(b"".join([*lines[:number], bytes(changed), *lines[number + 1 :]]))
        with pytest.raises(TraceError):
            open_trace(folder)


@pytest.mark.parametrize("number", range(3))
def test_a_lost_line_breaks_the_chain(folder: Path, number: int) -> None:
    path = folder / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    with pytest.raises(TraceError, match="CRC-32 of all bytes before it"):
        open_trace(folder)


@pytest.mark.parametrize("text", ["[1]", "{", '{"kind": NaN}', "\xff", "[" * 100_000, "", '{"a":' + "9" * 5000 + "}"])
def test_a_line_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    path = folder / "manifest.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + text.encode("latin-1") + b"\n")
    with pytest.raises(TraceError, match="a JSON object"):
        open_trace(folder)


def test_cut_anywhere_it_is_refused_or_incomplete_and_never_more_than_was_written(folder: Path) -> None:
    path = folder / "manifest.jsonl"
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 0x0A]
    for cut in range(0, len(whole), 37):
        path.write_bytes(whole[:cut])
        if cut < ends[0]:
            with pytest.raises(TraceError, match="a header line"):
                open_trace(folder)
            continue
        listing = verify_trace(folder)
        assert not listing.complete
        assert listing.torn == (cut not in ends)
        assert listing.captures == sum(cut >= end for end in ends[1:3])


def test_payload_bytes_are_verified(folder: Path) -> None:
    path = folder / SHARD
    raw = bytearray(path.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + size])["capture.1"]
    raw[8 + size + entry["data_offsets"][1] - 1] ^= 0x10
    path.write_bytes(raw)
    # Opening reads no payload; verifying reads them all.
    open_trace(folder)
    with pytest.raises(TraceError, match="payload CRC-32"):
        verify_trace(folder)


def test_row_tensors_are_verified_on_opening(folder: Path) -> None:
    path = folder / SHARD
    raw = bytearray(path.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + size])["rows.0"]
    raw[8 + size + entry["data_offsets"][0]] ^= 0x01
    path.write_bytes(raw)
    with pytest.raises(TraceError, match="payload CRC-32"):
        open_trace(folder)


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


SHARD_LIES: list[tuple[str, Any, str]] = [
    ("data_offsets", [0, 10**9], "inside the"),
    ("data_offsets", [8, 0], "inside the"),
    ("data_offsets", [-8, 72], "two whole numbers"),
    ("data_offsets", [0, 2**63], "two whole numbers"),
    ("data_offsets", [0], "two whole numbers"),
    ("shape", [2**40, 2**40], "bytes for"),
    ("shape", [5, 5], "bytes for"),
    ("shape", "5x4", "a shape"),
    ("shape", [1] * 40, "a shape"),
    ("dtype", "F7", "a dtype among"),
    ("dtype", None, "a dtype among"),
]


@pytest.mark.parametrize(("key", "value", "said"), SHARD_LIES, ids=[f"{n[0]}={n[1]!r:.20}" for n in SHARD_LIES])
def test_a_shard_header_that_lies_is_refused(folder: Path, key: str, value: Any, said: str) -> None:
    header, data = header_of(folder / SHARD)
    header["capture.0"][key] = value
    text = json.dumps(header).encode()
    (folder / SHARD).write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(TraceError, match=said):
        open_trace(folder)


def test_payloads_must_not_overlap_or_leave_gaps(folder: Path) -> None:
    header, data = header_of(folder / SHARD)
    first, end = header["capture.1"]["data_offsets"]
    for shift, said in ((-2, "overlaps"), (2, "gap")):
        moved = {**header, "capture.1": {**header["capture.1"], "data_offsets": [first + shift, end + shift]}}
        text = json.dumps(moved).encode()
        (folder / SHARD).write_bytes(len(text).to_bytes(8, "little") + text + data + b"\0\0")
        with pytest.raises(TraceError, match=said):
            open_trace(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw[:-1], "inside the|a file of"),
        (lambda raw: raw + b"\0", "as its header says"),
        (lambda raw: raw[:5], "8 bytes"),
        (lambda raw: b"", "8 bytes"),
        (lambda raw: b"\xff" * 8 + raw[8:], "a length of"),
        (lambda raw: raw[:8] + b"\xff" + raw[9:], "JSON header"),
        (lambda raw: b"\x02" + b"\0" * 7 + b"[]", "JSON object"),
    ],
    ids=["cut", "grown", "tiny", "empty", "endless header", "no json", "no object"],
)
def test_a_shard_that_was_cut_or_altered_is_refused(folder: Path, change: Callable[[bytes], bytes], said: str) -> None:
    path = folder / SHARD
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TraceError, match=said):
        open_trace(folder)


def test_links_pipes_and_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    (folder / SHARD).rename(real)
    with pytest.raises(TraceError, match="No such file"):
        open_trace(folder)
    (folder / SHARD).symlink_to(real)
    with pytest.raises(TraceError, match="symbolic link"):
        open_trace(folder)
    (folder / SHARD).unlink()
    os.mkfifo(folder / SHARD)
    with pytest.raises(TraceError, match="plain file"):
        open_trace(folder)
    with pytest.raises(TraceError, match=r"manifest\.jsonl"):
        open_trace(tmp_path / "nowhere")
    (folder / "manifest.jsonl").rename(tmp_path / "manifest")
    (folder / "manifest.jsonl").symlink_to(tmp_path / "manifest")
    with pytest.raises(TraceError, match="symbolic link"):
        open_trace(folder)


def test_a_folder_takes_one_trace(folder: Path, run: Run) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TraceError, match="without a trace"):
        TraceWriter(folder, run)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_unfinished_trace_says_what_is_missing(tmp_path: Path, run: Run, token_capture: Make) -> None:
    writer = TraceWriter(tmp_path / "t", run)
    tensor = torch.randn(5, 4)
    writer.add(token_capture(0, tensor), tensor)
    writer.close(complete=False)
    listing = verify_trace(tmp_path / "t")
    assert not listing.complete
    assert listing.missing == ("L00.moe.gate", "L01.moe.gate")
    assert "INCOMPLETE" in str(listing)


def test_a_shard_without_its_lines_does_not_count(folder: Path) -> None:
    (folder / "shard-00001.safetensors").write_bytes(b"half a sha")
    listing = verify_trace(folder)
    assert listing.captures == 2
    assert listing.orphans == ("shard-00001.safetensors",)


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import torch
from conftest import make_token_capture
from parity.records import Lineage, Recipe, Run
from parity.trace import TraceWriter, capture_environment
recipe = Recipe("fp32", *["fp32"] * 6)
run = Run("qwen3_moe", "toy", 1, ("a",), ((1, 2, 3, 4, 5),), recipe, Lineage("unknown"), capture_environment())
writer = TraceWriter({folder!r}, run, flush_bytes=1)
for number in range(1000):
    tensor = torch.full((5, 2), float(number))
    writer.add(make_token_capture(number, tensor), tensor)
    if number == 6:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_what_it_had_written(tmp_path: Path) -> None:
    folder, here = str(tmp_path / "t"), str(Path(__file__).parent)
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(folder=folder, here=here)],
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert done.returncode == -9
    listing = verify_trace(folder)
    assert not listing.complete
    assert listing.captures == 7
    trace = open_trace(folder)
    assert [int(trace.tensor(capture)[0, 0]) for capture in trace.captures] == list(range(7))
