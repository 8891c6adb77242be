"""Does a trace come back from the disk bit for bit, with every field?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.errors import TraceError
from parity.records import Capture, Run
from parity.trace import ANY, MemoryTrace, TraceWriter, open_trace, save_trace, verify_trace
from parity.trace.disk import OPEN_SHARDS
from parity.trace.shard import DTYPES, Shard
from parity.trace.shard_writer import write_shard

Make = Callable[..., Capture]


def same_rows(a: Capture, b: Capture) -> bool:
    pairs = [(getattr(a.rows, item.name), getattr(b.rows, item.name)) for item in fields(a.rows)]
    return all((x is None and y is None) or (np.array_equal(x, y) and x.dtype == y.dtype) for x, y in pairs)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_every_dtype_keeps_its_bits(tmp_path: Path, run: Run, dtype: torch.dtype, token_capture: Make) -> None:
    # Random bytes: NaN payloads, subnormals and signed zeros included. Booleans have two bit patterns only.
    count = 5 * 6 * dtype.itemsize
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), generator=torch.Generator().manual_seed(1))
    tensor = raw.to(torch.uint8).view(dtype).reshape(5, 6)
    writer = TraceWriter(tmp_path / "t", run)
    writer.add(token_capture(0, tensor), tensor)
    writer.close()
    trace = open_trace(tmp_path / "t")
    assert bits(trace.tensor(trace.captures[0])) == bits(tensor)
    assert trace.tensor(trace.captures[0]).dtype == dtype


def test_every_field_comes_back(tmp_path: Path, run: Run, expert_capture: Make) -> None:
    gate = torch.randn(10, 6)
    capture = expert_capture(4, gate)
    # Only if every optional field differs from its default does equality show that it was stored.
    defaults = {item.name: item.default for item in fields(Capture)}
    assert all(getattr(capture, name) != defaults[name] for name in ("reduction", "basis", "model", "variant"))
    writer = TraceWriter(tmp_path / "t", run)
    writer.add(capture, gate)
    writer.close()
    trace = open_trace(tmp_path / "t")
    assert trace.run == run
    found = trace.captures[0]
    assert same_rows(found, capture)
    row = found.geometry["row"]
    assert np.array_equal(row, capture.geometry["row"])
    assert {**found.geometry, "row": 0} == {**capture.geometry, "row": 0}
    for name in ("number", "stage", "layer", "phase", "step", "chunk", "axes", "dtype", "shape", "launch"):
        assert getattr(found, name) == getattr(capture, name)
    for name in ("placement", "reduction", "basis", "model", "variant"):
        assert getattr(found, name) == getattr(capture, name)


def test_select_and_repr(tmp_path: Path, run: Run, token_capture: Make, expert_capture: Make) -> None:
    embed, gate = torch.randn(5, 4), torch.randn(10, 6)
    captures = (token_capture(0, embed), expert_capture(1, gate), expert_capture(2, gate, layer=1))
    memory = MemoryTrace(run, captures, {0: embed, 1: gate, 2: gate})
    save_trace(tmp_path / "t", memory)
    for trace in (memory, open_trace(tmp_path / "t")):
        assert [c.number for c in trace.select(stage="moe.gate")] == [1, 2]
        assert [c.number for c in trace.select(layer=1)] == [2]
        assert [c.number for c in trace.select(layer=None)] == [0]
        assert [c.number for c in trace.select(layer=ANY, phase="prefill")] == [0]
        assert "3 captures of 2 requests, 8 tokens; complete" in repr(trace)


def test_non_contiguous_and_empty_payloads(tmp_path: Path, run: Run, token_capture: Make) -> None:
    wide = torch.arange(40.0).reshape(5, 8)
    writer = TraceWriter(tmp_path / "t", run)
    writer.add(token_capture(0, wide[:, ::2]), wide[:, ::2])
    writer.add(token_capture(1, wide[:0]), wide[:0])
    writer.close()
    trace = open_trace(tmp_path / "t")
    assert torch.equal(trace.tensor(trace.captures[0]), wide[:, ::2])
    assert trace.tensor(trace.captures[1]).shape == (0, 8)


def test_reading_is_lazy_and_never_writes(tmp_path: Path, run: Run, token_capture: Make) -> None:
    tensor = torch.zeros(5, 4)
    writer = TraceWriter(tmp_path / "t", run)
    writer.add(token_capture(0, tensor), tensor)
    writer.close()
    trace = open_trace(tmp_path / "t")
    trace.tensor(trace.captures[0]).fill_(1.0)
    assert torch.equal(open_trace(tmp_path / "t").tensor(trace.captures[0]), torch.zeros(5, 4))
    verify_trace(tmp_path / "t")


def test_more_shards_than_may_stay_open(tmp_path: Path, run: Run, token_capture: Make) -> None:
    writer = TraceWriter(tmp_path / "t", run, flush_bytes=1)
    for number in range(70):
        tensor = torch.full((5, 2), float(number))
        writer.add(token_capture(number, tensor), tensor)
    writer.close()
    trace = open_trace(tmp_path / "t")
    tensors = [trace.tensor(capture) for capture in trace.captures]
    assert len(trace._shards) == OPEN_SHARDS < 70
    assert len(verify_trace(tmp_path / "t").shards) == 70
    # Tensors of shards that were let go since are still readable.
    assert [int(tensor[0, 0]) for tensor in tensors] == list(range(70))


def test_expert_rows_are_stored_once_a_shard(tmp_path: Path, run: Run, expert_capture: Make) -> None:
    gate = torch.randn(10, 6)
    writer = TraceWriter(tmp_path / "t", run)
    for number in range(4):
        writer.add(expert_capture(number, gate), gate)
    writer.close()
    names = [name for name in load_file(tmp_path / "t" / "shard-00000.safetensors") if name.startswith("rows.")]
    # position, slot, expert, row; request is a constant.
    assert len(names) == 4
    assert all(same_rows(capture, expert_capture(0, gate)) for capture in open_trace(tmp_path / "t").captures)


def test_shards_are_what_the_safetensors_library_reads_and_writes(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5).bfloat16(), "b": torch.arange(7), "c": torch.randn(2, 2).to(torch.float8_e4m3fn)}
    write_shard(tmp_path / "ours", tensors)
    theirs = load_file(tmp_path / "ours")
    assert all(bits(theirs[name]) == bits(tensor) for name, tensor in tensors.items())
    save_file(tensors, tmp_path / "theirs")
    ours = Shard(tmp_path / "theirs")
    assert all(bits(ours.tensor(name)) == bits(tensor) for name, tensor in tensors.items())


def test_a_payload_off_its_alignment_is_copied(tmp_path: Path) -> None:
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}'
    )
    path = tmp_path / "s"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x01" + np.float32(2.5).tobytes())
    found = Shard(path).tensor("b")
    assert found.tolist() == [2.5]
    assert found.data_ptr() % 4 == 0


def test_writer_refuses_a_capture_that_does_not_fit(tmp_path: Path, run: Run, token_capture: Make) -> None:
    tensor = torch.zeros(5, 4)
    writer = TraceWriter(tmp_path / "t", run)
    writer.add(token_capture(3, tensor), tensor)
    wrong = [
        (token_capture(3, tensor), tensor),
        (token_capture(2, tensor), tensor),
        (token_capture(4, tensor), tensor.bfloat16()),
        (token_capture(4, tensor), tensor[:4]),
        (replace(token_capture(4, tensor), rows=token_capture(4, tensor[:3]).rows), tensor),
    ]
    for capture, payload in wrong:
        with pytest.raises(TraceError, match="Build the capture from the tensor"):
            writer.add(capture, payload)
    writer.close()
    with pytest.raises(TraceError, match="a closed one"):
        writer.add(token_capture(5, tensor), tensor)
