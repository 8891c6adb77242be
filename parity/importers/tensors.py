"""What tensor does a dumped file hold? Mapped, never unpickled, and refused before a byte is read that is not there."""

from __future__ import annotations

import math
import mmap
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from parity.errors import TraceError
from parity.trace.jsontext import are_counts, is_count, parse_json
from parity.trace.shard import BY_NAME

INTEGERS = {1: np.dtype("u1"), 2: np.dtype("u2"), 4: np.dtype("u4"), 8: np.dtype("u8")}
MOST_AXES = 16
LONGEST_SIDECAR = 2**20


def read_tensor(path: Path, dtype: str | None = None) -> torch.Tensor:
    """The tensor in a `.npy`, or in a `.bin` with its sidecar `.json` beside it.

    dtype: what the bits are, over the file's own word; of the same width. Mapped where it is row-major or column-major
    and of this machine's byte order, copied where the bytes have to be turned. Writes never reach the file.
    Raises TraceError for a symbolic link, a file that is too short or too long for its shape, objects and structures,
    dtypes that a trace does not have, and a sidecar that is none.
    """
    with _open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if path.suffix == ".npy":
            shape, fortran, kind, start = _npy_header(file, path)
            name, swapped = _npy_dtype(kind, path, dtype)
        else:
            shape, fortran, name, swapped, start = _sidecar(path, dtype)
        width = BY_NAME[name].itemsize
        count = math.prod(shape)
        if len(shape) > MOST_AXES or size - start != count * width:
            raise _wrong(
                path, f"{start + count * width} bytes for {list(shape)[:MOST_AXES]} of {name}", f"{size} bytes"
            )
        if not count:
            return torch.empty(shape, dtype=BY_NAME[name])
        try:
            mapped = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError, OverflowError) as error:
            raise _wrong(path, "a file that can be mapped", str(error)) from error
    raw: NDArray[Any] = np.frombuffer(mapped, INTEGERS[width], count, start)
    if swapped:
        raw = raw.byteswap()
    elif start % width:
        raw = raw.copy()
    array = raw.reshape(shape, order="F" if fortran else "C")
    signed = array.view({1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[width])
    return torch.from_numpy(signed).view(BY_NAME[name])


def _open_plain(path: Path) -> BinaryIO:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        found = "a symbolic link" if path.is_symlink() else str(error)
        raise _wrong(path, "a plain file", found) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _wrong(path, "a plain file", "something else")
    return os.fdopen(handle, "rb")


def _npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    try:
        version = npy.read_magic(file)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, kind = reader(file)
    except Exception as error:  # numpy's own parser raises what it likes for a header that is none
        raise _wrong(
            path, "the header of a .npy file, version 1 or 2", f"{type(error).__name__}: {error}"[:200]
        ) from error
    if not are_counts(list(shape)):
        raise _wrong(path, "a shape of whole numbers, none negative", repr(shape)[:200])
    return tuple(shape), fortran, kind, file.tell()


def _npy_dtype(kind: np.dtype[Any], path: Path, said: str | None) -> tuple[str, bool]:
    """(name of the dtype, whether bytes are in the other order)."""
    if kind.hasobject or kind.names is not None or kind.subdtype is not None:
        raise _wrong(path, "plain numbers", f"{kind}: objects and structures are not read")
    swapped = kind.byteorder == (">" if sys.byteorder == "little" else "<")
    if said is not None:
        return _as(said, kind.itemsize, path), swapped
    name = kind.newbyteorder("=").name
    if name not in BY_NAME:
        expected = "a dtype among " + ", ".join(BY_NAME)
        raise _wrong(path, expected, f'{kind}; say in the map what its bits are (`dtype`: "bfloat16")')
    return name, swapped


def _as(name: str, width: int, path: Path) -> str:
    if name not in BY_NAME or BY_NAME[name].itemsize != width:
        raise _wrong(path, f"a dtype of {width} bytes among " + ", ".join(BY_NAME), repr(name)[:80])
    return name


def _sidecar(path: Path, said: str | None) -> tuple[tuple[int, ...], bool, str, bool, int]:
    beside = path.with_suffix(".json")
    with _open_plain(beside) as file:
        raw = file.read(LONGEST_SIDECAR + 1)
    try:
        content: Any = parse_json(raw) if len(raw) <= LONGEST_SIDECAR else "a file beyond 1 MiB"
    except ValueError as error:
        content = str(error)
    known = {"dtype", "shape", "order", "byteorder", "offset"}
    if not isinstance(content, Mapping) or not {"dtype", "shape"} <= set(content) <= known:
        found = sorted(content) if isinstance(content, Mapping) else repr(content)[:120]
        raise _wrong(beside, "an object with dtype and shape, and of order, byteorder, offset", str(found)[:200])
    name, shape = content["dtype"], content["shape"]
    order, byteorder, offset = (content.get(key, default) for key, default in
                                (("order", "C"), ("byteorder", "little"), ("offset", 0)))  # fmt: skip
    if not isinstance(name, str) or name not in BY_NAME:
        raise _wrong(beside, "dtype among " + ", ".join(BY_NAME), repr(name)[:80])
    if not are_counts(shape) or not is_count(offset) or order not in ("C", "F") or byteorder not in ("little", "big"):
        expected = "shape of whole numbers, order C or F, byteorder little or big, offset at least 0"
        raise _wrong(beside, expected, repr((shape, order, byteorder, offset))[:200])
    name = name if said is None else _as(said, BY_NAME[name].itemsize, path)
    return tuple(shape), order == "F", name, byteorder != sys.byteorder and BY_NAME[name].itemsize > 1, offset


def _wrong(path: Path, expected: str, found: str) -> TraceError:
    return TraceError(
        place=str(path),
        expected=expected,
        found=found,
        next_step="Dump it again, or correct the map: docs/importing.md.",
    )
