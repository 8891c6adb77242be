"""Where do payloads lie in one shard, and which shards are refused? Safetensors, parsed and mapped here.

A shard is a safetensors file: 8 bytes little-endian length of the header, the header (JSON), then the data. It is
parsed here and not by the library because every offset must be checked before a byte is mapped, and an error must
name the shard and the tensor.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parity.errors import TraceError
from parity.trace.jsontext import are_counts, parse_json

# Safetensors' names of the dtypes that a payload may have.
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in CODES}

MAX_HEADER = 16 * 2**20
"""Longest header accepted, some 130,000 tensors: a lie in its length must not allocate memory, see journal.MAX_LINE."""
# Reserves no swap for a private mapping, which readers never write to; the module names it from Python 3.13 on.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

_REBUILD = "The file was cut, altered or written by a faulty writer: capture again, or restore it from a copy."


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as records spell it: `bfloat16`, without `torch.`."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Entry:
    """One tensor of a shard: dtype, shape, and first and last byte in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Shard:
    """One shard, mapped into memory; payloads are paged in when touched. Private: writes never reach the file."""

    def __init__(self, path: Path) -> None:
        """Map and check the file at `path`.

        Raises TraceError when it is missing, no plain file, too short, or when its header is no safetensors header,
        has overlapping or out-of-file offsets, a gap, or sizes that contradict the shapes.
        """
        self.path = path
        self._map = _map_file(path)
        self.entries = _parse_header(path, self._map)

    def crc(self, name: str) -> int:
        """CRC-32 of the payload of tensor `name`."""
        entry = self.entry(name)
        view = memoryview(self._map)
        try:
            return zlib.crc32(view[entry.start : entry.end])
        finally:
            view.release()

    def entry(self, name: str) -> Entry:
        """Where tensor `name` lies; raises TraceError when the shard has no such tensor."""
        self._check_size()
        try:
            return self.entries[name]
        except KeyError:
            raise TraceError(
                place=str(self.path),
                expected=f"a tensor called {name!r}, which the manifest names",
                found=f"{len(self.entries)} tensors, none of that name",
                next_step=_REBUILD,
            ) from None

    def _check_size(self) -> None:
        """Touching a page beyond the end of a file that was cut since it was mapped would kill the process."""
        try:
            size = os.stat(self.path, follow_symlinks=False).st_size
        except OSError:
            return  # removed since: the mapping keeps the bytes alive
        if size < len(self._map):
            raise TraceError(
                place=str(self.path),
                expected=f"{len(self._map)} bytes, as when it was opened",
                found=f"{size}",
                next_step=_REBUILD,
            )

    def tensor(self, name: str) -> torch.Tensor:
        """Tensor `name` over the mapped bytes: no copy where its offset is aligned to its element size."""
        entry = self.entry(name)
        count = math.prod(entry.shape)
        if not count:
            return torch.empty(entry.shape, dtype=entry.dtype)
        size = entry.end - entry.start
        if entry.start % entry.dtype.itemsize:
            copy = torch.empty(size, dtype=torch.uint8)
            with memoryview(self._map) as whole, whole[entry.start : entry.end] as part:
                copy.numpy().data[:] = part
            return copy.view(entry.dtype).reshape(entry.shape)
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=size, offset=entry.start)
        return raw.view(entry.dtype).reshape(entry.shape)


def _map_file(path: Path) -> mmap.mmap:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        found = "a symbolic link" if os.path.islink(path) else error.strerror or str(error)
        raise TraceError(place=str(path), expected="a plain file", found=found, next_step=_REBUILD) from error
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise TraceError(place=str(path), expected="a plain file", found="something else", next_step=_REBUILD)
        if info.st_size < 8:
            raise TraceError(
                place=str(path),
                expected="at least the 8 bytes of the header's length",
                found=f"{info.st_size} bytes",
                next_step=_REBUILD,
            )
        # Copy-on-write: torch wants a writable buffer, and no reader may change the file.
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(handle, info.st_size, flags=mmap.MAP_PRIVATE | _NORESERVE, prot=protection)
    except (OSError, ValueError, OverflowError) as error:
        raise TraceError(
            place=str(path),
            expected="a file that can be mapped into memory",
            found=f"{info.st_size} bytes: {error}",
            next_step="Raise the process's limit of address space, if the file is meant to be as large as that.",
        ) from error
    finally:
        os.close(handle)


def _parse_header(path: Path, data: mmap.mmap) -> dict[str, Entry]:
    def refuse(expected: str, found: str) -> TraceError:
        return TraceError(place=str(path), expected=expected, found=found, next_step=_REBUILD)

    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise refuse(f"a header of at most {min(MAX_HEADER, len(data) - 8)} bytes", f"a length of {length}")
    try:
        header = parse_json(data[8 : 8 + length])
    except ValueError as error:
        raise refuse("a JSON header", f"none ({error})"[:160]) from None
    if not isinstance(header, dict):
        raise refuse("a JSON object as header", type(header).__name__)
    header.pop("__metadata__", None)
    base = 8 + length
    room = len(data) - base
    entries: dict[str, Entry] = {}
    for name, item in header.items():
        entries[name] = _parse_entry(path, name, item, base=base, room=room)
    cursor = base
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].start, pair[1].end)):
        if entry.start != cursor:
            kind = "overlaps the tensor before it" if entry.start < cursor else "leaves a gap before it"
            raise refuse("payloads one after the other", f"tensor {name!r} {kind}, at byte {entry.start} of the file")
        cursor = entry.end
    if cursor != len(data):
        raise refuse(f"a file of {cursor} bytes, as its header says", f"{len(data)} bytes")
    return entries


def _parse_entry(path: Path, name: str, item: Any, *, base: int, room: int) -> Entry:
    def refuse(expected: str, found: object) -> TraceError:
        return TraceError(
            place=f"{path}, tensor {name!r}", expected=expected, found=repr(found)[:200], next_step=_REBUILD
        )

    if not isinstance(item, dict):
        raise refuse("an object with dtype, shape and data_offsets", item)
    code, shape, offsets = item.get("dtype"), item.get("shape"), item.get("data_offsets")
    if not isinstance(code, str) or code not in DTYPES:
        raise refuse("a dtype among " + ", ".join(DTYPES), code)
    if not are_counts(shape) or len(shape) > 16:
        raise refuse("a shape of at most 16 whole numbers, none negative", shape)
    if not are_counts(offsets) or len(offsets) != 2:
        raise refuse("data_offsets of two whole numbers", offsets)
    start, end = offsets
    if not start <= end <= room:
        raise refuse(f"offsets inside the {room} bytes of data", offsets)
    dtype = DTYPES[code]
    if math.prod(shape) * dtype.itemsize != end - start:
        raise refuse(f"{math.prod(shape) * dtype.itemsize} bytes for {shape} of {code}", offsets)
    return Entry(dtype, tuple(shape), base + start, base + end)
