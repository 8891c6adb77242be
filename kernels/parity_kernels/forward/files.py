"""Where is each tensor of a model folder, and what do the headers say of it? Shards are named, opened and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from parity.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FETCH_AGAIN = "Download the checkpoint again, all shards."


@dataclass(frozen=True)
class Stored:
    """One tensor as its shard's header declares it; dtype as safetensors spells it (`BF16`, `F8_E4M3`)."""

    file: str
    shape: tuple[int, ...]
    dtype: str


class Shards:
    """The safetensors files of a folder. Headers are read at once, a tensor's bytes when asked for.

    The files are those that the index names, or `model.safetensors`; others in the folder are not part of the model.
    Raises CheckpointError, before any tensor is read, for a missing or damaged file, an index that names anything but
    plain files of the folder, a tensor in two shards, an index that disagrees with the shards, and a folder that holds
    both an index and a single file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = self._read_index()
        names = [SINGLE] if index is None else sorted(set(index.values()))
        self._handles = {name: self._open(name) for name in names}
        self.stored: dict[str, Stored] = {}
        for file, handle in self._handles.items():
            for name in handle.keys():  # noqa: SIM118  (a file handle, not a mapping)
                if name in self.stored:
                    raise self._wrong(
                        f"tensor {name}", "in one shard", f"in {self.stored[name].file} and in {file}", FETCH_AGAIN
                    )
                view = handle.get_slice(name)
                self.stored[name] = Stored(file, tuple(view.get_shape()), view.get_dtype())
        if index is not None:
            self._compare(index)

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, on the CPU; do not write to it."""
        return self._handles[self.stored[name].file].get_tensor(name)

    def _read_index(self) -> dict[str, str] | None:
        path = self.folder / INDEX
        single = (self.folder / SINGLE).is_file()
        if not path.is_file():
            if not single:
                raise self._wrong("", f"the model's tensors: {SINGLE} or {INDEX}", "neither", FETCH_AGAIN)
            return None
        if single:
            raise self._wrong(
                "", f"{SINGLE} or {INDEX}", "both", "Remove the one that is not of this model; they may differ."
            )
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self._wrong(INDEX, "readable JSON", str(error), FETCH_AGAIN) from error
        found = content.get("weight_map") if isinstance(content, Mapping) else None
        if not isinstance(found, dict) or not found:
            raise self._wrong(INDEX, "a weight_map of tensor names to files", repr(found)[:80], FETCH_AGAIN)
        for name, file in found.items():
            # A path that leaves the folder would load whatever file of this machine the index wants.
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise self._wrong(
                    f"{INDEX}, tensor {name}",
                    "the name of a .safetensors file in this folder",
                    repr(file)[:200],
                    "The index is damaged or hostile: take the checkpoint from its source.",
                )
        return found

    def _open(self, name: str) -> Any:
        path = self.folder / name
        if not path.is_file():
            raise self._wrong(f"shard {name}", "a file of the model", "none", FETCH_AGAIN)
        try:
            return safe_open(str(path), framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            found = str(error) or repr(error)
            raise self._wrong(f"shard {name}", "a whole safetensors file", found, FETCH_AGAIN) from error

    def _compare(self, index: Mapping[str, str]) -> None:
        for name in sorted(index.keys() | self.stored.keys()):
            found = self.stored[name].file if name in self.stored else "in no shard"
            if index.get(name) != found:
                raise self._wrong(
                    f"tensor {name}", f"where the index says: {index.get(name, 'nowhere')}", found, FETCH_AGAIN
                )

    def _wrong(self, what: str, expected: str, found: str, next_step: str) -> CheckpointError:
        place = f"{self.folder}, {what}" if what else str(self.folder)
        return CheckpointError(place=place, expected=expected, found=found, next_step=next_step)
