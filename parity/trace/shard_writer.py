"""How does a shard get onto the disk one payload at a time, holding none of them? Safetensors with a header kept free.

The header stands before the payloads and names them all, so room for it is left when the file is made and filled in at
the end; safetensors allows blanks after a header. What is not filled in was never finished, and no manifest names it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from parity.errors import TraceError
from parity.trace.shard import BY_NAME, CODES, dtype_name

ENTRY_BYTES = 160
"""Room in the header for one tensor: its entry takes 60 to 130 bytes at sizes up to 1 TB and names up to 20 letters."""


def payload_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor in row-major order, little-endian, without a copy when it is contiguous on the CPU."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    return flat.view(torch.uint8).numpy().data


class ShardWriter:
    """A new safetensors file. `append` writes a payload through to the file; nothing of it is kept.

    tensors: how many there will be, at most; `full` says when there is no room for the name of one more.
    Raises TraceError when the file exists, OSError when it cannot be made.
    """

    def __init__(self, path: Path, *, tensors: int) -> None:
        self.path = path
        self.payload = 0
        self._entries: list[str] = []
        self._room = -(-max(tensors, 8) * ENTRY_BYTES // 8) * 8
        self._header = 0
        try:
            self._file = path.open("xb", buffering=0)
        except FileExistsError:
            raise TraceError(
                place=str(path),
                expected="no such file yet",
                found="one that is already there",
                next_step="Each trace needs a folder of its own; another process may be writing this one.",
            ) from None
        self._file.seek(8 + self._room)

    def has_room(self, tensors: int) -> bool:
        """True when the header takes that many further tensors, each with the filler before it."""
        return self._header + 2 * tensors * ENTRY_BYTES <= self._room

    def append(self, name: str, tensor: torch.Tensor) -> int:
        """Write one payload and return its CRC-32. Raises TraceError for a dtype without a safetensors name."""
        if tensor.dtype not in CODES:
            raise TraceError(
                place=f"tensor {name} for {self.path.name}",
                expected="a dtype among " + ", ".join(BY_NAME),
                found=dtype_name(tensor.dtype),
                next_step="Cast it before it is captured.",
            )
        # A payload off its alignment could not be mapped, and the format allows no gap: a tensor that no line names
        # fills it.
        gap = -self.payload % tensor.element_size()
        if gap:
            self._write(f"fill.{len(self._entries)}", "U8", [gap], memoryview(bytes(gap)))
        raw = payload_bytes(tensor)
        self._write(name, CODES[tensor.dtype], list(tensor.shape), raw)
        return zlib.crc32(raw)

    def finish(self) -> None:
        """Fill in the header and flush the file, then its folder, to the disk."""
        text = b"{" + ",".join(self._entries).encode("ascii") + b"}"
        self._file.seek(0)
        write_all(self._file, memoryview(self._room.to_bytes(8, "little") + text.ljust(self._room)))
        os.fsync(self._file.fileno())
        self._file.close()
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the file: nobody names it, and a full disk needs the room."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink()

    def _write(self, name: str, code: str, shape: list[int], raw: memoryview) -> None:
        entry = {"dtype": code, "shape": shape, "data_offsets": [self.payload, self.payload + len(raw)]}
        text = f"{json.dumps(name)}:{json.dumps(entry, separators=(',', ':'))}"
        if self._header + len(text) + 2 > self._room:
            raise TraceError(
                place=f"tensor {name} for {self.path.name}",
                expected=f"names that fit a header of {self._room} bytes",
                found=f"{self._header + len(text) + 2} bytes",
                next_step="Announce the number of tensors, or use shorter names.",
            )
        write_all(self._file, raw)
        self._entries.append(text)
        self._header += len(text) + 1
        self.payload += len(raw)


def write_all(file: Any, raw: memoryview) -> None:
    """Write every byte to an unbuffered file; the operating system may take fewer at a time."""
    while len(raw):
        raw = raw[file.write(raw) :]


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Write `tensors` to a new safetensors file, flush it to the disk, and return the CRC-32 of each payload.

    Payloads are laid out by falling element size, so that each is aligned. Raises as ShardWriter does.
    """
    shard = ShardWriter(path, tensors=2 * len(tensors))
    try:
        order = sorted(tensors, key=lambda name: -tensors[name].element_size())
        crcs = {name: shard.append(name, tensors[name]) for name in order}
        shard.finish()
    except BaseException:
        shard.discard()
        raise
    return crcs


def sync_folder(folder: Path) -> None:
    """Make a new file's name durable: its folder must be flushed as well as the file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
