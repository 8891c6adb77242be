"""How are payload bytes laid out in one shard, and which shards are refused? Safetensors, written and parsed here.

A shard is a safetensors file: 8 bytes little-endian length of the header, the header (JSON), then the data. It is
parsed here and not by the library because every offset must be checked before a byte is mapped, and an error must
name the shard and the tensor.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parity.errors import TraceError

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

MAX_HEADER = 100_000_000
"""Longest header accepted, the safetensors library's own limit: a lie in the length must not allocate memory."""

_REBUILD = "The file was cut, altered or written by a faulty writer: capture again, or restore it from a copy."


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as records spell it: `bfloat16`, without `torch.`."""
    return str(dtype).removeprefix("torch.")


def payload_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor in row-major order, little-endian, without a copy when it is contiguous on the CPU."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    return flat.view(torch.uint8).numpy().data


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Write `tensors` to a new safetensors file, flush it to the disk, and return the CRC-32 of each payload.

    Payloads are laid out by falling element size after a header padded to 8 bytes, so that each is aligned.
    Raises TraceError when the file exists or a dtype has no safetensors name.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in CODES:
            raise TraceError(
                place=f"tensor {name} for {path.name}",
                expected="a dtype among " + ", ".join(BY_NAME),
                found=dtype_name(tensor.dtype),
                next_step="Cast it before it is captured.",
            )
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    crcs = {}
    with _create(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            payload = payload_bytes(tensors[name])
            crcs[name] = zlib.crc32(payload)
            file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return crcs


def _create(path: Path) -> Any:
    try:
        return path.open("xb")
    except FileExistsError:
        raise TraceError(
            place=str(path),
            expected="no such file yet",
            found="one that is already there",
            next_step="Each trace needs a folder of its own; another process may be writing this one.",
        ) from None


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; raises TraceError where a file is in the way or it may not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission to write", str(folder))
    except OSError as error:
        raise TraceError(
            place=str(folder),
            expected="a folder that can be made and written",
            found=error.strerror or str(error),
            next_step="Name another folder for the trace.",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a new file's name durable: its folder must be flushed as well as the file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        try:
            return self.entries[name]
        except KeyError:
            raise TraceError(
                place=str(self.path),
                expected=f"a tensor called {name!r}, which the manifest names",
                found=f"{len(self.entries)} tensors, none of that name",
                next_step=_REBUILD,
            ) from None

    def tensor(self, name: str) -> torch.Tensor:
        """Tensor `name` over the mapped bytes: no copy where its offset is aligned to its element size."""
        entry = self.entry(name)
        count = math.prod(entry.shape)
        if not count:
            return torch.empty(entry.shape, dtype=entry.dtype)
        size = entry.end - entry.start
        if entry.start % entry.dtype.itemsize:
            raw = bytearray(self._map[entry.start : entry.end])
            return torch.frombuffer(raw, dtype=entry.dtype).reshape(entry.shape)
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=size, offset=entry.start)
        return raw.view(entry.dtype).reshape(entry.shape)


def _map_file(path: Path) -> mmap.mmap:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        found = "a symbolic link" if path.is_symlink() else error.strerror or str(error)
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
        return mmap.mmap(handle, info.st_size, access=mmap.ACCESS_COPY)
    finally:
        os.close(handle)


def _parse_header(path: Path, data: mmap.mmap) -> dict[str, Entry]:
    def refuse(expected: str, found: str) -> TraceError:
        return TraceError(place=str(path), expected=expected, found=found, next_step=_REBUILD)

    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise refuse(f"a header of at most {min(MAX_HEADER, len(data) - 8)} bytes", f"a length of {length}")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise refuse("a JSON header", f"none ({type(error).__name__})") from None
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
    if not isinstance(shape, list) or len(shape) > 16 or not all(is_count(size) for size in shape):
        raise refuse("a shape of at most 16 whole numbers, none negative", shape)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(at) for at in offsets):
        raise refuse("data_offsets of two whole numbers", offsets)
    start, end = offsets
    if not start <= end <= room:
        raise refuse(f"offsets inside the {room} bytes of data", offsets)
    dtype = DTYPES[code]
    if math.prod(shape) * dtype.itemsize != end - start:
        raise refuse(f"{math.prod(shape) * dtype.itemsize} bytes for {shape} of {code}", offsets)
    return Entry(dtype, tuple(shape), base + start, base + end)


def is_count(value: Any) -> bool:
    """True for a whole number >= 0 below 2**63; JSON's true and false are not numbers here."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
