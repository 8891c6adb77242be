"""Is there a mutation of a trace that gets through? A campaign over bytes, lines, JSON values, shard headers and files.

Two properties. Bytes changed by accident, in any number of places: the trace is refused, or it is the original, or it
is the original cut short and says so. Lines and headers changed by somebody who computes the chain anew: the trace is
refused with a TraceError, or every payload that verifies has the bits of a payload of the original, and every function
that reads traces works on it or raises TraceError. Neither may take memory or time.
"""

from __future__ import annotations

import json
import math
import resource
import time
import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.errors import TraceError
from parity.invariance import launch_coverage
from parity.records import Capture, Run
from parity.trace import TraceWriter, diff_traces, list_captures, open_trace, trace_statistics, verify_trace
from parity.trace.disk import DiskTrace

Make = Callable[..., Capture]


class Files(dict[str, bytes]):
    """The files of a trace, by name; shown by their ends, since all of them would fill pages."""

    def __repr__(self) -> str:
        return "Files(" + ", ".join(f"{name}: {len(raw)} bytes, {raw[-60:]!r}" for name, raw in self.items()) + ")"


MANIFEST = "manifest.jsonl"
SECONDS = 10.0
"""Most that one example may take: a hundred times what it does, so that a busy machine is no failure."""
MEGABYTES = 400
"""Most that the whole campaign may add to the peak of resident memory: one line of the largest size, parsed."""


@pytest.fixture
def original(tmp_path: Path, run: Run, token_capture: Make, expert_capture: Make) -> Files:
    """Three steps, three shards, ten captures with and without row tensors; two payloads have the same size."""
    writer = TraceWriter(tmp_path / "original", run)
    generator = torch.Generator().manual_seed(7)
    number = 0
    for step in range(3):
        phase = "decode" if step else "prefill"
        writer.begin_step(phase, step, 0)
        for layer in range(2):
            embed = torch.randn(5, 3, generator=generator)
            capture = token_capture(number, embed, stage="attn.norm", layer=layer)
            writer.add(replace(capture, phase=phase, step=step), embed)
            gate = torch.randn(10, 6, generator=generator).bfloat16()
            writer.add(replace(expert_capture(number + 1, gate, layer=layer), phase=phase, step=step), gate)
            number += 2
        writer.flush()
    writer.close()
    return Files({path.name: path.read_bytes() for path in (tmp_path / "original").iterdir()})


def place(folder: Path, files: Files) -> Path:
    """Write files to an empty folder."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def bits(trace: DiskTrace, capture: Capture) -> bytes:
    tensor = trace.tensor(capture)
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def facts(capture: Capture) -> tuple[Any, ...]:
    """Everything a capture says, comparable."""
    rows = [getattr(capture.rows, item.name) for item in fields(capture.rows)]
    said = tuple(repr(getattr(capture, item.name)) for item in fields(Capture) if item.name != "rows")
    return (*said, *(None if values is None else (values.dtype.str, values.tobytes()) for values in rows))


# --- accidents: bytes of the files, without regard to what they mean ---


@st.composite
def accidents(draw: st.DrawFn, original: Files) -> Files:
    """The files after one to four accidents."""
    files = Files(original)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(files)))
        raw = files[name]
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        until = draw(st.integers(at, min(at + 64, len(raw))))
        kind = draw(st.sampled_from(["flip", "cut", "grow", "remove", "insert", "copy", "lines", "swap", "lose"]))
        if kind == "flip" and raw:
            raw = raw[:at] + bytes([raw[at] ^ (1 << draw(st.integers(0, 7)))]) + raw[at + 1 :]
        elif kind == "cut":
            raw = raw[:at]
        elif kind == "grow":
            raw += draw(st.binary(min_size=1, max_size=16))
        elif kind == "remove":
            raw = raw[:at] + raw[until:]
        elif kind == "insert":
            raw = raw[:at] + draw(st.binary(min_size=1, max_size=16)) + raw[at:]
        elif kind == "copy":
            to = draw(st.integers(0, max(len(raw) - 1, 0)))
            raw = raw[:to] + raw[at:until] + raw[to + until - at :]
        elif kind == "lines":
            lines = raw.splitlines(keepends=True) or [b""]
            one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            how = draw(st.sampled_from(["drop", "double", "exchange", "end"]))
            if how == "drop":
                del lines[one]
            elif how == "double":
                lines.insert(other, lines[one])
            elif how == "exchange":
                lines[one], lines[other] = lines[other], lines[one]
            else:
                del lines[one:]
            raw = b"".join(lines)
        elif kind == "swap":
            other_name = draw(st.sampled_from(sorted(files)))
            files[name], files[other_name] = files[other_name], raw
            continue
        elif kind == "lose":
            if len(files) > 1:
                del files[name]
            continue
        files[name] = raw
    return files


def check_accident(folder: Path, files: Files, expected: list[tuple[Any, ...]], run: Run) -> str:
    """The outcome: refused, whole or cut. Anything else fails."""
    place(folder, files)
    began = time.monotonic()
    try:
        verify_trace(folder)
        trace = open_trace(folder)
    except TraceError:
        outcome = "refused"
        # What is intact is still listed, or there is no header to list it under.
        try:
            verify_trace(folder, strict=False)
        except TraceError:
            outcome = "refused"
    else:
        found = [(*facts(capture), bits(trace, capture)) for capture in trace.captures]
        assert trace.run == run
        assert found == expected[: len(found)]
        assert not trace.complete or len(found) == len(expected)
        outcome = "whole" if trace.complete else "cut"
    assert time.monotonic() - began < SECONDS
    return outcome


def run_accidents(tmp_path: Path, original: Files, run: Run, examples: int) -> None:
    whole = open_trace(place(tmp_path / "reference", original))
    expected = [(*facts(capture), bits(whole, capture)) for capture in whole.captures]
    outcomes: dict[str, int] = {}
    before = peak()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(accidents(original))
    def check(files: Files) -> None:
        outcome = check_accident(tmp_path / "mutated", files, expected, run)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    check()
    assert peak() - before < MEGABYTES * 2**20
    # The campaign reached all three outcomes: it is no test of refusals alone.
    assert outcomes["refused"] > examples // 3
    assert outcomes["cut"] > 0


# --- intent: JSON values of lines and shard headers, with the chain computed anew ---

NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2, 5, 10, 2**24 + 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 1.5, -0.0,
    1e308, math.inf, math.nan, "", "x", "nan", "../x", "/etc/passwd", "..", "\x00", "\ud800", "shard-00001.safetensors",
    "shard-99999.safetensors", "capture.0", "rows.0", "prefill", "decode", "float32", "int32", "F32", "I32", "F64", [],
    {},
    [0], [1, 2], [-1, 0], [[]], [None], [2**62, 2**62], [0, 2**63 - 1], {"constant": 2**31}, {"constant": 0},
    {"start": 0, "count": 5}, {"start": 0, "count": 10**12}, {"tensor": "rows.1", "crc": 0}, {"rows": "x"}, {"m": {}},
    [[0, 1], [2, 3]], "header", "capture", "end", "step", "remark",
]  # fmt: skip


def paths_of(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    found = [prefix] if prefix else []
    if isinstance(value, dict):
        for key in value:
            found += paths_of(value[key], (*prefix, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            found += paths_of(value[index], (*prefix, index))
    return found


def change(draw: st.DrawFn, value: Any) -> None:
    """Change, remove or add one thing inside a JSON object or list."""
    paths = paths_of(value)
    if not paths:
        return
    *outer, last = draw(st.sampled_from(paths))
    for key in outer:
        value = value[key]
    how = draw(st.sampled_from(["set", "set", "set", "near", "remove", "add"]))
    if how == "set":
        value[last] = deepcopy(draw(st.sampled_from(NASTY)))
    elif how == "near" and isinstance(value[last], int):
        value[last] += draw(st.sampled_from([-1, 1, 8]))
    elif how == "remove":
        del value[last]
    elif isinstance(value, dict):
        value[draw(st.sampled_from(["colour", "row", "tile_m", "requires", "constant", "tensor"]))] = draw(
            st.sampled_from(NASTY)
        )
    else:
        value.append(deepcopy(value[last]))


def seal(lines: list[Any]) -> bytes:
    """A manifest of these lines with a right chain."""
    raw = b""
    for line in lines:
        text = json.dumps({k: v for k, v in line.items() if k != "chain"} if isinstance(line, dict) else line)
        raw += text[:-1].encode() + (b"," if len(text) > 2 else b"") + b'"chain":'
        raw += b"%d}\n" % zlib.crc32(raw)
    return raw


@st.composite
def intents(draw: st.DrawFn, original: Files) -> Files:
    """The files after changes that keep every chain right."""
    files = Files(original)
    lines = [json.loads(line) for line in original[MANIFEST].splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["value", "value", "value", "line", "header", "header", "swap"]))
        if kind == "value":
            change(draw, lines[draw(st.integers(0, len(lines) - 1))])
        elif kind == "line" and len(lines) > 1:
            one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            how = draw(st.sampled_from(["drop", "double", "exchange"]))
            if how == "drop":
                del lines[one]
            elif how == "double":
                lines.insert(other, deepcopy(lines[one]))
            else:
                lines[one], lines[other] = lines[other], lines[one]
        elif kind == "header":
            name = draw(st.sampled_from(sorted(set(files) - {MANIFEST})))
            raw = files[name]
            size = int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8 : 8 + size])
            change(draw, header)
            text = json.dumps(header).encode()
            files[name] = len(text).to_bytes(8, "little") + text + raw[8 + size :]
        elif kind == "swap":
            one, other = (draw(st.sampled_from(sorted(set(files) - {MANIFEST}))) for _ in range(2))
            files[one], files[other] = files[other], files[one]
    files[MANIFEST] = seal(lines)
    return files


def check_intent(folder: Path, files: Files, reference: DiskTrace, payloads: set[bytes]) -> str:
    place(folder, files)
    began = time.monotonic()
    try:
        trace = open_trace(folder)
    except TraceError:
        outcome = "refused"
    else:
        outcome = "opened"
        for capture in trace.captures:
            try:
                trace.check_payload(capture)
            except TraceError:
                continue
            assert not len(capture.rows) or bits(trace, capture) in payloads
        # Whoever reads it next must be able to rely on what opening checked.
        list_captures(trace)
        for row in trace_statistics(trace):
            assert row.count == math.prod(row.shape)
        diff_traces(reference, trace)
        launch_coverage(trace)
        repr(trace).encode("utf-8")
        assert all(np.all(capture.rows.request < len(trace.run.requests)) for capture in trace.captures)
    try:
        listing = verify_trace(folder, strict=False)
    except TraceError:
        assert outcome == "refused"
    else:
        str(listing).encode("utf-8")
        assert outcome == "opened" or listing.damaged
    assert time.monotonic() - began < SECONDS
    return outcome


def run_intents(tmp_path: Path, original: Files, examples: int) -> None:
    reference = open_trace(place(tmp_path / "reference", original))
    payloads = {bits(reference, capture) for capture in reference.captures}
    outcomes: dict[str, int] = {}
    before = peak()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(intents(original))
    def check(files: Files) -> None:
        outcome = check_intent(tmp_path / "mutated", files, reference, payloads)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    check()
    assert peak() - before < MEGABYTES * 2**20
    assert outcomes["refused"] > examples // 4
    assert outcomes["opened"] > examples // 50


def peak() -> int:
    """Peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_campaign_starts_from_a_whole_trace(tmp_path: Path, original: Files) -> None:
    lines = [json.loads(line) for line in original[MANIFEST].splitlines()]
    place(tmp_path / "t", Files({**original, MANIFEST: seal(lines)}))
    assert verify_trace(tmp_path / "t").captures == 12
    assert len(lines) == 1 + 3 + 12 + 1


def test_accidents(tmp_path: Path, original: Files, run: Run) -> None:
    run_accidents(tmp_path, original, run, 400)


def test_intents(tmp_path: Path, original: Files) -> None:
    run_intents(tmp_path, original, 400)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_five_thousand_accidents(tmp_path: Path, original: Files, run: Run) -> None:
    run_accidents(tmp_path, original, run, 5_000)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_five_thousand_intents(tmp_path: Path, original: Files) -> None:
    run_intents(tmp_path, original, 5_000)
