"""Where is each tensor of a model folder? The safetensors files, their headers, and the shard index."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from parity.errors import CheckpointError

SHARD_FILE = re.compile(r"[^/\\\0]+\.safetensors")
DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
}


@dataclass(frozen=True)
class Entry:
    """One tensor as its file's header declares it; `dtype` is None for one that torch is not told about here."""

    file: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    dtype_name: str


class TensorFiles:
    """The safetensors files of a folder, opened once and memory-mapped; a tensor's bytes are read when asked for.

    A folder holds `model.safetensors`, or shards with `model.safetensors.index.json`. Raises CheckpointError for
    neither, for a missing or damaged file, for a tensor in two shards, and when index and shards disagree.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if index.is_file() and single.is_file():
            raise self._damaged(f"{single.name} or {index.name}", "both: they may be of different models")
        if index.is_file():
            weight_map = self._weight_map(index)
            names = sorted(set(weight_map.values()))
        elif single.is_file():
            weight_map, names = None, [single.name]
        else:
            raise CheckpointError(
                place=str(folder),
                expected="model.safetensors or model.safetensors.index.json",
                found="neither",
                next_step="Point at the folder that holds config.json and the safetensors files.",
            )
        self._open = {name: self._opened(folder / name) for name in names}
        self.entries: dict[str, Entry] = {}
        for file, handle in self._open.items():
            for name in handle.keys():  # noqa: SIM118  (a file handle, not a mapping)
                if name in self.entries:
                    raise self._damaged(f"tensor {name} in one shard", f"it in {self.entries[name].file} and {file}")
                part = handle.get_slice(name)
                kind = part.get_dtype()
                self.entries[name] = Entry(file, tuple(part.get_shape()), DTYPES.get(kind), kind)
        if weight_map is not None:
            self._compare(weight_map)

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored; do not write to it."""
        return self._open[self.entries[name].file].get_tensor(name)

    def _compare(self, weight_map: dict[str, str]) -> None:
        placed = {name: entry.file for name, entry in self.entries.items()}
        wrong = sorted(name for name in placed.keys() | weight_map.keys() if placed.get(name) != weight_map.get(name))
        if wrong:
            first = wrong[0]
            raise self._damaged(
                f"{first} in {weight_map.get(first, 'no shard')}, as the index says",
                f"it in {placed.get(first, 'no shard')} ({len(wrong)} tensors disagree)",
            )

    def _weight_map(self, index: Path) -> dict[str, str]:
        try:
            weight_map = dict(json.loads(index.read_bytes())["weight_map"])
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise self._damaged(f"a weight_map in {index.name}", repr(error)) from error
        if not weight_map:
            raise self._damaged(f"a weight_map in {index.name}", "an empty one")
        for name, file in weight_map.items():
            # Any other path would be read from wherever the index points, outside the folder too.
            if not (isinstance(file, str) and SHARD_FILE.fullmatch(file)):
                raise self._damaged(
                    f"{name} in a .safetensors file directly in the folder, by {index.name}", repr(file)
                )
        return weight_map

    def _opened(self, path: Path) -> Any:
        try:
            return safe_open(str(path), framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise self._damaged(f"a readable {path.name}", str(error) or repr(error)) from error

    def _damaged(self, expected: str, found: str) -> CheckpointError:
        return CheckpointError(
            place=str(self.folder),
            expected=expected,
            found=found[:300],
            next_step="The checkpoint is damaged or half-copied; fetch or convert it again.",
        )
