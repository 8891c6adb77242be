"""Does a trace made to harm do any? Sizes that claim all memory, files that are none, links out of the folder.

Each case is opened in a child whose address space is limited, so that what would claim memory fails loudly, and whose
time is limited, so that what would hang does too.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
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
from parity.trace import TraceWriter, journal, open_trace, rowdata, shard, verify_trace
from parity.trace.jsontext import parse_json

Line = dict[str, Any]
Make = Callable[..., Capture]
SHARD = "shard-00000.safetensors"
MANIFEST = "manifest.jsonl"


@pytest.fixture
def folder(tmp_path: Path, run: Run, token_capture: Make) -> Path:
    """A whole trace of one capture: line 0 header, 1 capture, 2 end."""
    writer = TraceWriter(tmp_path / "t", run)
    embed = torch.randn(5, 4)
    writer.add(token_capture(0, embed), embed)
    writer.close()
    return tmp_path / "t"


def seal(texts: list[str]) -> bytes:
    """Lines, given as JSON objects in text, with a right chain."""
    raw = b""
    for text in texts:
        raw += text[:-1].encode("utf-8", "surrogatepass") + b',"chain":'
        raw += b"%d}\n" % zlib.crc32(raw)
    return raw


def texts_of(folder: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    return [json.dumps({key: value for key, value in line.items() if key != "chain"}) for line in lines]


def plant(folder: Path, number: int, text: str) -> None:
    texts = texts_of(folder)
    texts[number] = text
    (folder / MANIFEST).write_bytes(seal(texts))


def change(folder: Path, number: int, **keys: Any) -> None:
    plant(folder, number, json.dumps({**json.loads(texts_of(folder)[number]), **keys}))


def write_header(folder: Path, header: bytes, payload: bytes, *, length: int | None = None) -> None:
    size = len(header) if length is None else length
    (folder / SHARD).write_bytes(size.to_bytes(8, "little") + header + payload)


LIMITED = """
import json, os, resource, sys
import torch
from parity.errors import TraceError
from parity.trace import open_trace, verify_trace
found = {}
for name, (folder, megabytes) in json.loads(sys.argv[1]).items():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)
        try:
            verify_trace(folder)
            said = "verified"
        except TraceError as error:
            said = str(error)
        except BaseException as error:
            said = "RAW " + repr(error)
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        found[name] = file.read().decode()
    os.waitpid(child, 0)
print(json.dumps(found))
"""


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def claim_line(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(8 * 2**30)


def claim_header(folder: Path) -> None:
    with (folder / SHARD).open("r+b") as file:
        file.truncate(2**40)
        file.write((2**39).to_bytes(8, "little"))


def claim_rows(folder: Path) -> None:
    """A sparse file makes the claim true: 2**38 rows of one byte are there, and a range names a position for each."""
    count = 2**38
    header = json.dumps({"capture.0": {"dtype": "U8", "shape": [count, 1], "data_offsets": [0, count]}}).encode()
    write_header(folder, header, b"")
    os.truncate(folder / SHARD, 8 + len(header) + count)
    rows = {"request": {"constant": 0}, "position": {"start": 0, "count": count}}
    change(folder, 1, dtype="uint8", shape=[count, 1], rows=rows)


def claim_objects(folder: Path) -> None:
    """Empty objects take the most memory for their text: a line of the largest size, with its chain right."""
    filler = "{}," * ((journal.MAX_LINE - 200) // 3)
    plant(folder, 1, '{"kind":"capture","a":[' + filler + "{}]}")


CLAIMS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "nothing": (lambda folder: None, 64, "verified"),
    "a line of gigabytes": (claim_line, 64, "longer line"),
    "a header of a terabyte, in little memory": (claim_header, 64, "can be mapped"),
    "a header of a terabyte": (claim_header, 2**21, "a header of at most"),
    "rows without end, in little memory": (claim_rows, 64, "can be mapped"),
    "rows without end": (claim_rows, 2**19, f"at most {rowdata.MAX_ROWS}"),
    "a line full of objects": (claim_objects, 700, "number"),
}


def test_claims_of_memory_are_refused_in_little_of_it(folder: Path, tmp_path: Path) -> None:
    cases = {}
    for number, (name, (claim, megabytes, _)) in enumerate(CLAIMS.items()):
        case = tmp_path / f"case-{number}"
        shutil.copytree(folder, case)
        claim(case)
        cases[name] = (str(case), megabytes)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(cases)],
        env=child_environment(), check=True, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    found = json.loads(done.stdout)
    for name, (_, _, said) in CLAIMS.items():
        assert said in found[name], (name, found[name])


def test_many_ranges_do_not_add_up_to_all_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowdata, "MAX_RANGE_BYTES", 100)
    open_trace(folder)
    header, lines, payload = {}, texts_of(folder)[:1], b""
    for number in range(3):
        header[f"c{number}"] = {"dtype": "F32", "shape": [5, 4], "data_offsets": [80 * number, 80 * number + 80]}
        payload += bytes(80)
        line = json.loads(texts_of(folder)[1])
        line.update(number=number, tensor=f"c{number}", crc=zlib.crc32(bytes(80)))
        line["rows"]["position"] = {"start": number, "count": 5}
        lines.append(json.dumps(line))
    write_header(folder, json.dumps(header).encode(), payload)
    (folder / MANIFEST).write_bytes(seal(lines))
    with pytest.raises(TraceError, match="at most 100 bytes"):
        open_trace(folder)
    for number in range(1, 4):
        lines[number] = lines[number].replace(f'"start": {number - 1}', '"start": 7')
    (folder / MANIFEST).write_bytes(seal(lines))
    # The same range again costs nothing.
    assert len(open_trace(folder)) == 3


@pytest.mark.parametrize(
    "shape",
    [
        [2**63, 4], [-5, -4], [2**32, 2**32], [2**62, 4], [10**30, 1], [5.0, 4], ["5", "4"], [True, 20], [5, 4, 0],
        [[5], 4], None, 20, {}, [2**63 - 1, 2**63 - 1],
    ],
)  # fmt: skip
@pytest.mark.parametrize("both", [False, True], ids=["manifest", "manifest and shard"])
def test_absurd_shapes(folder: Path, shape: Any, both: bool) -> None:
    change(folder, 1, shape=shape)
    if both:
        header = json.dumps({"capture.0": {"dtype": "F32", "shape": shape, "data_offsets": [0, 80]}}).encode()
        write_header(folder, header, bytes(80))
    with pytest.raises(TraceError):
        open_trace(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"capture.0":{"dtype":"F32","shape":[5,4],"data_offsets":[0,80]},'
         '"capture.0":{"dtype":"F32","shape":[5,4],"data_offsets":[80,160]}}', "a key twice"),
        ('{"capture.0":{"dtype":"F32","dtype":"I32","shape":[5,4],"data_offsets":[0,80]}}', "a key twice"),
        ('{"capture.0":{"dtype":"I32","shape":[5,4],"data_offsets":[0,80]}}', "dtype and shape"),
        ('{"capture.0":{"dtype":"F32","shape":[5,4],"data_offsets":[0,80]},'
         '"other":{"dtype":"F32","shape":[5,4],"data_offsets":[40,120]}}', "overlaps"),
        ('{"capture.0":{"dtype":"F32","shape":[5,4],"data_offsets":[0,NaN]}}', "NaN is no JSON"),
        ('{"capture.0":{"dtype":"F32","shape":[5,4],"data_offsets":[0,1e999]}}', "beyond float64"),
        ('{"capture.0":{"dtype":"F32","shape":[5,4],"data_offsets":[0,8e1]}}', "two whole numbers"),
        ("[" * 200_000, "nested|none"),
        ('{"a":' * 200_000, "nested|none"),
        ('{"\\ud800":{"dtype":"F32","shape":[5,4],"data_offsets":[0,80]}}', "surrogates"),
        ("", "JSON header"),
        ("{}", "as its header says"),
        ("\x00" * 64, "JSON header"),
    ],
)  # fmt: skip
def test_shard_headers_that_lie(folder: Path, text: str, said: str) -> None:
    write_header(folder, text.encode(), bytes(160 if "[80" in text else 120 if "[40" in text else 80))
    with pytest.raises(TraceError, match=said):
        open_trace(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind":"capture","number":NaN}', "NaN is no JSON"),
        ('{"kind":"capture","number":-Infinity}', "Infinity is no JSON"),
        ('{"kind":"capture","number":1e999}', "beyond float64"),
        ('{"kind":"capture","number":0,"number":1}', "a key twice"),
        ('{"kind":"capture","n":' + "9" * 5000 + "}", "a JSON object"),
        ('{"kind":"capture","a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"kind":"capture","stage":"\\ud800"}', "surrogates"),
        ('{"kind":"capture","stage":"\udcff"}', "utf-8"),
        ('{"kind":7}', "says its kind"),
        ('{"kind":"header"}', "one header"),
        ("[]", "a JSON object"),
    ],
)
def test_lines_that_are_not_json(folder: Path, text: str, said: str) -> None:
    plant(folder, 1, text)
    with pytest.raises(TraceError, match=said):
        open_trace(folder)


def test_a_deep_object_is_refused_without_breaking_the_stack() -> None:
    for text in (b"[" * 10**6, b'{"a":' * 10**6, b"[" * 10**5 + b"]" * 10**5):
        with pytest.raises(ValueError):
            parse_json(text)


@pytest.mark.parametrize(("phase", "step"), [("prefill", 1), ("prefill", 3), ("decode", 0)])
def test_a_step_that_is_none_of_its_phase(folder: Path, phase: str, step: int) -> None:
    change(folder, 1, phase=phase, step=step)
    with pytest.raises(TraceError, match=r"step: expected (0 in prefill|1, 2, \.\.\. in decode)"):
        open_trace(folder)


@pytest.mark.parametrize("name", [MANIFEST, SHARD])
@pytest.mark.parametrize("what", ["link", "dangling link", "link to itself", "pipe", "folder", "socket", "device"])
def test_files_that_are_none(folder: Path, tmp_path: Path, name: str, what: str) -> None:
    path, outside = folder / name, tmp_path / "outside"
    path.rename(outside)
    if what == "link":
        path.symlink_to(outside)
    elif what == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "link to itself":
        path.symlink_to(path)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "socket":
        here = os.getcwd()
        os.chdir(folder)  # a socket's name is at most 107 bytes
        try:
            socket.socket(socket.AF_UNIX).bind(name)
        finally:
            os.chdir(here)
    else:
        try:
            os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero: endless when read
        except PermissionError:
            pytest.skip("may not make a device file here; pipes and sockets are tried instead")
    before = outside.read_bytes()
    for read in (open_trace, verify_trace):
        with pytest.raises(TraceError, match=r"plain file|symbolic link|No such"):
            read(folder)
    with pytest.raises(TraceError):
        verify_trace(folder, strict=False) if name == MANIFEST else open_trace(folder)
    assert outside.read_bytes() == before


def test_a_name_that_leaves_the_folder_is_never_opened(folder: Path, tmp_path: Path) -> None:
    (tmp_path / SHARD).write_bytes((folder / SHARD).read_bytes())
    stamp = os.stat(tmp_path / SHARD)
    for name in (f"../{SHARD}", str(tmp_path / SHARD), f"./{SHARD}", f"..\\{SHARD}", f"{SHARD}/../{SHARD}", "~", ""):
        change(folder, 1, shard=name)
        with pytest.raises(TraceError, match="without a folder"):
            open_trace(folder)
    assert os.stat(tmp_path / SHARD) == stamp


def test_a_shard_cut_while_the_trace_is_open_is_named_and_kills_nobody(folder: Path) -> None:
    trace = open_trace(folder)
    os.truncate(folder / SHARD, 100)
    for read in (trace.tensor, trace.check_payload):
        with pytest.raises(TraceError, match="as when it was opened"):
            read(trace.captures[0])


def test_a_payload_that_grew(folder: Path) -> None:
    trace = open_trace(folder)
    with (folder / SHARD).open("ab") as file:
        file.write(bytes(80))
    # What was mapped is what it was; opened again it is refused.
    assert trace.tensor(trace.captures[0]).shape == (5, 4)
    with pytest.raises(TraceError, match="as its header says"):
        open_trace(folder)


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file", "a\0b", "x" * 5000):
        with pytest.raises(TraceError):
            open_trace(str(tmp_path / name))
        with pytest.raises(TraceError):
            verify_trace(str(tmp_path / name), strict=False)


def test_damage_is_listed_beside_what_is_intact(tmp_path: Path, run: Run, token_capture: Make) -> None:
    writer = TraceWriter(tmp_path / "t", run)
    for number in range(4):
        tensor = torch.full((5, 4), float(number))
        writer.add(token_capture(number, tensor, stage="attn.norm", layer=number % 2), tensor)
        writer.flush()
    writer.close()
    path = tmp_path / "t" / "shard-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 0x40
    path.write_bytes(raw)
    (tmp_path / "t" / "shard-00002.safetensors").unlink()
    listing = verify_trace(tmp_path / "t", strict=False)
    assert listing.captures == 2
    assert listing.sites == {"L00.attn.norm": 1, "L01.attn.norm": 1}
    assert len(listing.damaged) == 2
    assert "shard-00002" in listing.damaged[0]
    assert "payload CRC-32" in listing.damaged[1]
    assert "DAMAGED" in str(listing)
    with pytest.raises(TraceError):
        verify_trace(tmp_path / "t")
    # A manifest broken in the middle: what stands before the break is intact.
    manifest = tmp_path / "t" / MANIFEST
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join([*lines[:2], lines[2].replace(b"attn", b"atnn"), *lines[3:]]))
    listing = verify_trace(tmp_path / "t", strict=False)
    assert (listing.captures, listing.complete) == (1, False)
    assert "line 3" in listing.damaged[0]


def test_limits_are_below_what_they_guard() -> None:
    assert shard.MAX_HEADER <= journal.MAX_LINE == 16 * 2**20


def test_an_open_trace_holds_its_manifest_and_no_payload(tmp_path: Path, run: Run, token_capture: Make) -> None:
    # A quarter of a gigabyte of payloads (sparse on disk): opening and listing take what the rows take, reading one
    # capture takes that one.
    count, names = 2**20, [f"capture.{number}" for number in range(8)]
    size = count * 4 * 8
    header = {
        name: {"dtype": "F32", "shape": [count, 8], "data_offsets": [index * size, (index + 1) * size]}
        for index, name in enumerate(names)
    }
    writer = TraceWriter(tmp_path / "t", run)
    tensor = torch.zeros(1, 8)
    writer.add(token_capture(0, tensor), tensor)
    writer.close()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "t" / SHARD
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + 8 * size)
    base = json.loads(texts_of(tmp_path / "t")[1])
    rows = {"request": {"constant": 0}, "position": {"start": 0, "count": count}}
    lines = [texts_of(tmp_path / "t")[0]]
    for number, name in enumerate(names):
        lines.append(
            json.dumps({**base, "number": number, "tensor": name, "shape": [count, 8], "crc": 0, "rows": rows})
        )
    (tmp_path / "t" / MANIFEST).write_bytes(seal(lines))
    code = """
import resource, sys
from parity.trace import list_captures, open_trace, trace_statistics
import torch
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
torch.zeros(8).double().sum()
before = peak()
trace = open_trace(sys.argv[1])
assert len(list_captures(trace)) == 8
after_open = peak()
assert trace.tensor(trace.captures[3])[5, 5] == 0
one = next(trace_statistics(trace))
assert one.count == 2**23 and one.zeros == 2**23
print(after_open - before, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t")], check=True, capture_output=True, text=True, timeout=100,
        env=child_environment(),
    )  # fmt: skip
    opened, measured = map(int, done.stdout.split())
    assert opened < 32 * 2**20  # 8 MB of positions, shared by the eight, and as much again while they are looked at
    assert measured < 64 * 2**20 + size  # pages of the one payload that was read, which the system may drop
