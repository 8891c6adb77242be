"""Do listing, statistics and difference of traces say what is in them, block by block?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parity.records import Capture, Run
from parity.trace import (
    MemoryTrace,
    capture_statistics,
    diff_traces,
    difference,
    list_captures,
    save_trace,
    summaries,
    trace_statistics,
)

Make = Callable[..., Capture]


@pytest.fixture
def memory(run: Run, token_capture: Make, expert_capture: Make) -> MemoryTrace:
    generator = torch.Generator().manual_seed(4)
    embed, gate = torch.randn(5, 4, generator=generator), torch.randn(10, 6, generator=generator).bfloat16()
    tensors = {0: embed, 1: gate, 2: gate + 1}
    return MemoryTrace(
        run, (token_capture(0, embed), expert_capture(1, gate), expert_capture(2, gate, layer=1)), tensors
    )


def test_a_catalogue_lists_every_capture(tmp_path: Path, memory: MemoryTrace) -> None:
    save_trace(tmp_path / "t", memory)
    first, gate, _ = list_captures(tmp_path / "t")
    assert (first.name, first.dtype, first.shape, first.bytes, first.rows) == ("embed.out", "float32", (5, 4), 80, 5)
    assert (first.requests, first.first_position, first.last_position) == (1, 0, 4)
    assert (gate.name, gate.phase, gate.step, gate.chunk, gate.bytes) == ("L00.moe.gate", "decode", 2, 1, 120)
    assert gate.shard == "shard-00000.safetensors"
    assert [item.number for item in list_captures(tmp_path / "t", stage="moe.gate", layer=1)] == [2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int32, torch.bool])
def test_statistics_over_blocks_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, token_capture: Make, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(summaries, "BLOCK", 7)
    tensor = (torch.randn(9, 5, generator=torch.Generator().manual_seed(1)) * 3 + 100).to(dtype)
    found = capture_statistics(token_capture(0, tensor), tensor)
    wide = tensor.float().double() if tensor.element_size() == 1 else tensor.double()
    # Sums of 45 values in fp64, in another order: a few units in the last place of a value near 100.
    for name, expected in (
        ("mean", wide.mean()), ("std", wide.std(correction=0)), ("l2", wide.norm()), ("min", wide.min()),
        ("max", wide.max()),
    ):  # fmt: skip
        assert getattr(found, name) == pytest.approx(float(expected), rel=1e-12, abs=1e-12), name
    assert (found.count, found.nonfinite, found.zeros) == (45, 0, int((wide == 0).sum()))


def test_statistics_of_hostile_values(token_capture: Make) -> None:
    tensor = torch.tensor([[math.nan, math.inf], [-math.inf, 2.0], [0.0, -0.0]])
    found = capture_statistics(token_capture(0, tensor), tensor)
    assert (found.nonfinite, found.zeros, found.min, found.max, found.count) == (3, 2, 0.0, 2.0, 6)
    nothing = capture_statistics(token_capture(0, tensor[:1]), tensor[:1])
    assert (nothing.mean, nothing.std, nothing.min, nothing.l2, nothing.nonfinite) == (None, None, None, None, 2)
    empty = capture_statistics(token_capture(0, tensor[:0]), tensor[:0])
    assert (empty.count, empty.mean, empty.nonfinite) == (0, None, 0)


def test_statistics_come_one_capture_at_a_time(tmp_path: Path, memory: MemoryTrace) -> None:
    save_trace(tmp_path / "t", memory)
    rows = trace_statistics(tmp_path / "t")
    assert next(rows).name == "embed.out"
    assert [row.name for row in rows] == ["L00.moe.gate", "L01.moe.gate"]


def test_equal_traces_do_not_differ(tmp_path: Path, memory: MemoryTrace) -> None:
    save_trace(tmp_path / "a", memory)
    found = diff_traces(tmp_path / "a", memory)
    assert found.same
    assert found.same_payloads
    assert found.identical == 3


def test_one_bit_is_found_where_it_is(monkeypatch: pytest.MonkeyPatch, memory: MemoryTrace) -> None:
    monkeypatch.setattr(difference, "BLOCK_BYTES", 8)
    altered = memory.tensor(memory.captures[1]).clone()
    altered.view(torch.int16)[7, 3] ^= 1
    altered.view(torch.int16)[9, 5] ^= 1
    other = MemoryTrace(memory.run, memory.captures, {0: memory.tensor(memory.captures[0]), 1: altered,
                                                      2: memory.tensor(memory.captures[2])})  # fmt: skip
    found = diff_traces(memory, other)
    assert not found.same_payloads
    assert found.identical == 2
    (item,) = found.captures
    assert (item.name, item.state, item.elements, item.differing, item.first) == (
        "L00.moe.gate",
        "payload",
        60,
        2,
        (7, 3),
    )


def test_bits_not_values_are_compared(run: Run, token_capture: Make) -> None:
    nan, zero = torch.tensor([[math.nan, 0.0]]), torch.tensor([[math.nan, -0.0]])
    captures = (token_capture(0, nan),)
    assert diff_traces(MemoryTrace(run, captures, {0: nan}), MemoryTrace(run, captures, {0: nan.clone()})).same
    (item,) = diff_traces(MemoryTrace(run, captures, {0: nan}), MemoryTrace(run, captures, {0: zero})).captures
    assert (item.differing, item.first) == (1, (0, 1))


def test_metadata_shape_and_absence_are_told_apart(memory: MemoryTrace) -> None:
    embed, gate, last = memory.captures
    tensors = {number: memory.tensor(capture) for number, capture in enumerate(memory.captures)}
    run = replace(memory.run, flags={"seed": 4}, layers=3)
    changed = (replace(embed, basis="half"), replace(gate, dtype="float16"))
    other = MemoryTrace(run, changed, {**tensors, 1: tensors[1].half()})
    found = diff_traces(memory, other)
    assert [(item.field, item.a, item.b) for item in found.run] == [("layers", "2", "3"), ("flags.seed", "3", "4")]
    states = [(item.name, item.state) for item in found.captures]
    assert states == [("embed.out", "metadata"), ("L00.moe.gate", "not comparable"), ("L01.moe.gate", "only in a")]
    assert [item.field for item in found.captures[0].fields] == ["basis"]
    assert found.identical == 0
    back = diff_traces(other, memory)
    assert back.captures[-1].state == "only in b"
    assert back.identical == 0
    assert last.number == 2


def test_rows_are_metadata(memory: MemoryTrace) -> None:
    embed = memory.captures[0]
    moved = replace(embed, rows=replace(embed.rows, position=embed.rows.position + 1))
    tensors = {0: memory.tensor(embed)}
    (item,) = diff_traces(
        MemoryTrace(memory.run, (embed,), tensors), MemoryTrace(memory.run, (moved,), tensors)
    ).captures
    assert (item.state, item.fields[0].field) == ("metadata", "rows.position")
