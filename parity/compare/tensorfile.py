"""Which tensors are in these .safetensors files, and how are a few rows of one read without reading the rest?

Files are mapped; a tensor is handed out in pieces, so that no payload is ever in memory as a whole. Dtypes that torch
does not know are listed too, since a tensor must not vanish from a comparison because it cannot be read.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch

from parity.errors import UsageError

MAX_HEADER = 100_000_000  # the safetensors library's own limit

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Safetensors' dtypes of whole bytes that torch has too. Others (F4, F6_E2M3, ...) are packed: bytes only."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file. dtype: as the file spells it (`BF16`); shape as stored; raw: its bytes, mapped.

    start: where they begin in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: memoryview
    start: int = 0

    @property
    def known(self) -> torch.dtype | None:
        """The torch dtype, None for a packed or unknown one."""
        return DTYPES.get(self.dtype)

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns): leading dims flattened to rows, the last is the columns; 1-d is one row, 0-d is 1 by 1."""
        return (math.prod(self.shape[:-1]), self.shape[-1]) if self.shape else (1, 1)

    def piece(self, first: int, last: int) -> torch.Tensor:
        """Elements first..last of the tensor in row-major order, [last - first], over mapped memory; do not write."""
        dtype = self.known
        assert dtype is not None, "bytes only"
        size = dtype.itemsize
        if last <= first:
            return torch.empty(0, dtype=dtype)
        part = self.raw[first * size : last * size]
        whole = torch.frombuffer(part, dtype=torch.uint8)
        if whole.data_ptr() % size:  # a header of odd length: this piece is copied
            whole = whole.clone()
        return whole.view(dtype)

    def release(self, last: int, first: int = 0) -> None:
        """Give back the memory of the mapped pages of elements first..last; they are read from the file again when
        needed."""
        dtype, map_ = self.known, self.raw.obj
        if dtype is None or not isinstance(map_, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start, end = self.start + first * dtype.itemsize, self.start + last * dtype.itemsize
        page, past = start - start % mmap.PAGESIZE, end - end % mmap.PAGESIZE
        if past > page:
            map_.madvise(mmap.MADV_DONTNEED, page, past - page)


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one .safetensors file, or of all such files in a folder, by name, in natural order.

    Raises UsageError for a path that is neither, a folder without such files, a file whose header lies, and a name that
    occurs in two files of a folder.
    """
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise _refused(path, "a trace, or .safetensors files in the folder", "neither")
    elif path.is_file():
        files = [path]
    else:
        raise _refused(path, "a trace, a .safetensors file or a folder of them", "nothing there")
    found: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _read_file(file).items():
            if name in found:
                raise _refused(file, "each name in one file of the folder", f"{name!r} again")
            found[name] = tensor
    return {name: found[name] for name in sorted(found, key=natural_order)}


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which `layers.2` comes before `layers.10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(p), "") if p.isascii() and p.isdigit() and len(p) < 1000 else (0, 0, p) for p in parts]


def _read_file(path: Path) -> dict[str, StoredTensor]:
    data = _map_file(path)
    size = len(data)
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, size - 8):
        raise _refused(path, f"a header of at most {min(MAX_HEADER, size - 8)} bytes", f"a length of {length}")
    try:
        header = json.loads(bytes(data[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _refused(path, "a JSON header, each name once", str(error)[:200]) from None
    if not isinstance(header, dict):
        raise _refused(path, "a JSON object as header", type(header).__name__)
    header.pop("__metadata__", None)
    payload = data[8 + length :]
    tensors: dict[str, StoredTensor] = {}
    places = []
    for name, item in header.items():
        tensors[name], start, end = _read_entry(path, name, item, payload, 8 + length)
        places.append((start, end, name))
    cursor = 0
    for start, end, name in sorted(places):
        if start != cursor:
            raise _refused(path, "payloads one after the other", f"{name!r} at byte {start} where {cursor} is next")
        cursor = end
    if cursor != len(payload):
        raise _refused(path, f"{cursor} bytes of payload, as its header says", f"{len(payload)}")
    return tensors


def _map_file(path: Path) -> memoryview:
    """The bytes of a plain file, or of one behind a link, as model caches have them."""
    try:
        # Not to block: a pipe that nobody writes to would hold the comparison for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise _refused(path, "a file that can be read", error.strerror or str(error)) from None
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise _refused(path, "a plain file", "a folder" if stat.S_ISDIR(info.st_mode) else "a pipe or a device")
        if info.st_size < 8:
            raise _refused(path, "at least the 8 bytes of the header's length", f"{info.st_size} bytes")
        # Copy-on-write: torch wants a writable buffer, and nothing may change the file.
        return memoryview(mmap.mmap(handle, info.st_size, access=mmap.ACCESS_COPY))
    except (OSError, ValueError, OverflowError) as error:
        raise _refused(path, "a file that can be mapped into memory", f"{info.st_size} bytes: {error}") from None
    finally:
        os.close(handle)


def _read_entry(path: Path, name: str, item: Any, payload: memoryview, base: int) -> tuple[StoredTensor, int, int]:
    fields = item if isinstance(item, Mapping) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise _refused(path, f"dtype, shape and data_offsets of {name!r}", repr(item)[:200])
    start, end = offsets
    if not start <= end <= len(payload):
        raise _refused(path, f"offsets of {name!r} inside the {len(payload)} bytes of payload", repr(offsets))
    known = DTYPES.get(dtype)
    if known is not None and math.prod(shape) * known.itemsize != end - start:
        raise _refused(path, f"{math.prod(shape) * known.itemsize} bytes for {name!r}", f"{end - start}")
    return StoredTensor(name, dtype, tuple(shape), payload[start:end], base + start), start, end


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or len(value) > 16:
        return False
    return all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _refused(path: Path, expected: str, found: str) -> UsageError:
    return UsageError(
        place=str(path),
        expected=expected,
        found=found,
        next_step="Pass two traces, or two .safetensors files (or folders of them) with equal tensor names.",
    )
