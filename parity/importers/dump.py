"""How does a folder of dumped tensors become a trace? Every file is placed once, or the dump is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.errors import TraceError, UsageError
from parity.importers.layout import lay_out
from parity.importers.stagemap import Placement, StageMap
from parity.importers.tensors import read_tensor
from parity.records import Capture, Rows, site_name
from parity.stages import term
from parity.trace import TraceWriter
from parity.trace.shard import dtype_name

SUFFIXES = (".npy", ".bin")


@dataclass(frozen=True)
class Imported:
    """What an import left. ignored: files that the map ignores; absent: names of the map without a file."""

    out: Path
    captures: int
    sites: tuple[str, ...]
    ignored: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class _Placed:
    path: Path
    placement: Placement
    layer: int | None
    step: int
    chunk: int
    request: int


def import_dump(folder: Path, stage_map: StageMap, out: Path) -> Imported:
    """Write the tensors of `folder` as a trace into `out`, one file a capture, mapped and not held.

    Positions run on from step to step: the rows of a file are those that follow the rows of the steps and chunks before
    it. Expert rows lie by token and slot, and their experts are those of `moe.topk_ids` of the same layer and step.
    Raises UsageError for files that the map does not know, two files of one capture, and a name of the map without any
    file; TraceError for tensors that are not what the map says.
    """
    files, ignored = _files(folder, stage_map)
    placed = [_place(path, stage_map) for path in files]
    seen: dict[Any, Path] = {}
    for one in placed:
        key = (one.layer, one.placement.stage, one.step, one.chunk, one.request)
        if key in seen:
            raise _refuse(folder, "one file a capture", f"{seen[key].name} and {one.path.name} of one stage")
        seen[key] = one.path
    present = {one.placement.stage for one in placed}
    absent = tuple(sorted(name for name, place in stage_map.names.items() if place.stage not in present))
    if absent or not placed:
        raise _refuse(folder, "a file for every name of the map", ", ".join(absent) or "no file at all")
    placed.sort(
        key=lambda one: (one.step, one.chunk, one.request, -1 if one.layer is None else one.layer, one.path.name)
    )
    sites = tuple(dict.fromkeys((one.layer, one.placement.stage) for one in placed))
    run = replace(stage_map.run, declared=stage_map.run.declared or sites)
    writer = TraceWriter(out, run)
    try:
        _write(writer, placed, stage_map, seen)
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    return Imported(out, len(placed), tuple(site_name(*site) for site in sites), ignored, absent)


def _write(writer: TraceWriter, placed: list[_Placed], stage_map: StageMap, seen: dict[Any, Path]) -> None:
    starts: dict[tuple[int, int, int], int] = {}
    next_position: dict[int, int] = {}
    step: tuple[int, int] | None = None
    for number, one in enumerate(placed):
        if (one.step, one.chunk) != step:
            step = (one.step, one.chunk)
            writer.begin_step("decode" if one.step else "prefill", *step)
        tensor, slots = _laid_out(one, stage_map)
        tokens = len(tensor) // slots
        key = (one.step, one.chunk, one.request)
        if key not in starts:
            starts[key] = next_position.get(one.request, 0)
            next_position[one.request] = starts[key] + tokens
        if next_position[one.request] - starts[key] != tokens:
            found = f"{tokens}, where other stages of that step have {next_position[one.request] - starts[key]}"
            raise _wrong(one.path, "as many tokens as the other stages of its step", found)
        rows = _rows(one, starts[key], tokens, slots, stage_map, seen)
        word = term(one.placement.stage)
        phase = "decode" if one.step else "prefill"
        dtype, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
        writer.add(
            Capture(number, word.name, one.layer, phase, one.step, one.chunk, word.axes, dtype, shape, rows), tensor
        )


def _files(folder: Path, stage_map: StageMap) -> tuple[list[Path], tuple[str, ...]]:
    if not folder.is_dir():
        raise _refuse(folder, "a folder of dumped tensors", "none")
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    ignored = tuple(path.name for path in found if stage_map.ignores(path.name))
    return [path for path in found if path.name not in ignored], ignored


def _place(path: Path, stage_map: StageMap) -> _Placed:
    found = stage_map.place(path.stem)
    if found is None:
        raise _refuse(path, "a name that the map's pattern and stages know, or ignore", path.name)
    placement, numbers = found
    layer, request = numbers["layer"], numbers["request"] or 0
    if layer is not None and layer >= stage_map.run.layers:
        raise _refuse(path, f"a layer below {stage_map.run.layers}", str(layer))
    if request >= len(stage_map.run.requests):
        raise _refuse(path, f"a request below {len(stage_map.run.requests)}", str(request))
    return _Placed(path, placement, layer, numbers["step"] or 0, numbers["chunk"] or 0, request)


def _laid_out(one: _Placed, stage_map: StageMap) -> tuple[torch.Tensor, int]:
    """The tensor as the vocabulary lays it, and how many rows a token has."""
    tensor, place = read_tensor(one.path, one.placement.dtype), one.placement
    refuse = partial(_wrong, one.path)
    return lay_out(tensor, place.axes, term(place.stage), stage_map.sizes, refuse=refuse)


def _rows(one: _Placed, start: int, tokens: int, slots: int, stage_map: StageMap, seen: dict[Any, Path]) -> Rows:
    position = np.arange(start, start + tokens, dtype=np.int64)
    if term(one.placement.stage).axes[0] != "R":
        return Rows(np.full(tokens, one.request, np.int32), position)
    chosen = seen.get((one.layer, "moe.topk_ids", one.step, one.chunk, one.request))
    if chosen is None:
        raise _wrong(one.path, "moe.topk_ids of its layer and step among the files", "none")
    ids, _ = _laid_out(_place(chosen, stage_map), stage_map)
    if ids.is_floating_point() or tuple(ids.shape) != (tokens, slots) or (ids.numel() and int(ids.min()) < 0):
        raise _wrong(chosen, f"expert ids of {tokens} tokens and {slots} slots", f"{ids.dtype} {list(ids.shape)}")
    return Rows(
        np.full(tokens * slots, one.request, np.int32),
        np.repeat(position, slots),
        np.tile(np.arange(slots, dtype=np.int32), tokens),
        ids.flatten().to(torch.int32).numpy(),
    )


def _refuse(path: Path, expected: str, found: str) -> UsageError:
    return UsageError(place=str(path), expected=expected, found=found, next_step="See docs/importing.md.")


def _wrong(path: Path, expected: str, found: str) -> TraceError:
    return TraceError(place=str(path), expected=expected, found=found, next_step="Correct the map: docs/importing.md.")
