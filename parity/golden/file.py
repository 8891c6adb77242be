"""How is a golden kept on disk? One safetensors file that says what it is, and that notices when it was altered."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from parity.errors import GoldenError, UsageError
from parity.golden.calibration import MeasuredFloor
from parity.golden.contents import Contents
from parity.golden.packing import pack_trace, unpack_trace
from parity.reading import read_record
from parity.records import as_json

FORMAT = 2
"""Of what is written. 1 is read too, without its measured floors: they bounded each kind of slice by itself, while
those of 2 bound the check as a whole, and an honest run passed one of them too easily."""

KEY, CHECK = "parity.golden", "parity.crc32"

MAX_BYTES = 500 * 1024
"""Default limit of a golden's size: the one at which pre-commit's check-added-large-files refuses a file."""


@dataclass(frozen=True)
class Golden:
    """A golden: what is expected, and where it comes from.

    test, name: which check it belongs to. floor: the label of its floor. positions: of a trace, how many of the last
    ones were kept; None for all. numerics: the environment it was written in, as `numerics_of` gives it.
    measured: measured floors, one an environment; the first is the one of `numerics`. provenance: anything that says
    what made it. format: of the file it was read from.
    """

    contents: Contents
    test: str
    name: str | None
    floor: str
    numerics: Mapping[str, str]
    positions: int | None = None
    measured: tuple[MeasuredFloor, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def measured_in(self, numerics: Mapping[str, str]) -> MeasuredFloor | None:
        """What was measured in that environment, None where nothing was."""
        return next((one for one in self.measured if one.numerics == numerics), None)


def write_golden(path: Path, golden: Golden, *, max_bytes: int = MAX_BYTES, replace: bool = False) -> int:
    """Write it so that a reader sees the whole file or none; returns its size in bytes.

    replace: False refuses (FileExistsError) a path that exists, whoever made it in between.
    Raises GoldenError for contents without a tensor, an empty or non-finite one (they could never be matched), and for
    more bytes than `max_bytes`; OSError as the disk gives it.
    """
    raw = _encode(golden)
    if len(raw) > max_bytes:
        trace = golden.contents.trace is not None
        raise GoldenError(
            place=str(path),
            expected=f"a golden of at most {max_bytes} bytes",
            found=f"{len(raw)} bytes",
            next_step=("Keep fewer positions (positions=N) or sites, " if trace else "Keep a part of the tensors, ")
            + "or allow it: max_bytes=N, or parity_golden_max_bytes in the pytest settings.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's are private, and a golden is committed
        if replace:
            os.replace(name, path)
        else:
            _link(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    return len(raw)


def read_golden(path: Path) -> Golden:
    """Read what `write_golden` wrote. Raises GoldenError for anything altered, cut short or of another kind."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        raw = path.read_bytes()
        tensors = load(raw)
        said = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        text = said[KEY]
        if int(said[CHECK]) != zlib.crc32(text.encode()):
            raise ValueError("its description was altered: the CRC-32 is another one")
        content = json.loads(text)
        made_as = content["format"]
        if made_as not in (1, FORMAT):
            raise ValueError(f"format {made_as!r}, this version reads 1 and {FORMAT}")
        _check_payloads(tensors, content["tensors"])
        contents = Contents(tensors=tensors)
        if content["kind"] == "trace":
            contents = Contents(trace=unpack_trace(tensors, content["trace"], place=str(path)))
        stored = content["measured"] if made_as == FORMAT else ()
        measured = [read_record(MeasuredFloor, one, place=f"{path}, measured") for one in stored]
        fields = {name: content[name] for name in ("test", "name", "floor", "numerics", "positions", "provenance")}
        return Golden(contents=contents, measured=tuple(measured), format=made_as, **fields)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise _unreadable(path, error) from error


def _encode(golden: Golden) -> bytes:
    from safetensors.torch import save

    contents = golden.contents
    if contents.trace is not None:
        tensors, packed = pack_trace(contents.trace)
    else:
        tensors, packed = dict(contents.tensors or {}), None
    values = {name: one for name, one in tensors.items() if packed is None or not name.startswith("rows@")}
    if not values:
        raise _refused("golden", "at least one tensor", "none", "A comparison of nothing would always pass.")
    for name, one in values.items():
        if not one.numel():
            raise _refused(f"tensor {name!r}", "values", f"an empty tensor of shape {list(one.shape)}", "Leave it out.")
        _refuse_nonfinite(name, one)
    description = {
        "format": FORMAT,
        "kind": contents.kind,
        "trace": packed,
        "tensors": {name: [*_shape_of(one), _crc(one)] for name, one in tensors.items()},
        **{name: as_json(getattr(golden, name)) for name in ("test", "name", "floor", "numerics", "positions")},
        "measured": as_json(golden.measured),
        "provenance": as_json(golden.provenance),
    }
    text = json.dumps(description, sort_keys=True)
    return save(tensors, metadata={KEY: text, CHECK: str(zlib.crc32(text.encode()))})


def _refuse_nonfinite(name: str, tensor: torch.Tensor) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.dtype == torch.float8_e8m0fnu:
        return
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # torch has no isfinite of 8-bit floats
    bad = int((~torch.isfinite(wide)).sum())
    if bad:
        found = f"{bad} of {tensor.numel()} NaN or infinite"
        step = "Mend what made them; mask out what is infinite on purpose. NaN never passes, so it cannot be expected."
        raise _refused(f"tensor {name!r}", "finite values", found, step)


def _check_payloads(tensors: Mapping[str, torch.Tensor], said: Mapping[str, Any]) -> None:
    if set(tensors) != set(said):
        raise ValueError(f"its tensors are not the ones it names: {sorted(set(tensors) ^ set(said))[:4]}")
    for name, one in tensors.items():
        if said[name] != [*_shape_of(one), _crc(one)]:
            raise ValueError(f"tensor {name!r} was altered: its CRC-32, dtype or shape is another one")


def _shape_of(tensor: torch.Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)


def _crc(tensor: torch.Tensor) -> int:
    if not tensor.numel():
        return 0
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _link(name: str, path: Path) -> None:
    """Give a finished file its name unless that is taken: what `open("x")` is for a file that has its bytes already."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: the name is taken first, then the bytes come in one step.
        path.touch(exist_ok=False)
        os.replace(name, path)


def _unreadable(path: Path, error: Exception) -> GoldenError:
    found = f"{type(error).__name__}: {error}"[:300]
    step = "Restore it from version control, or rewrite it with --parity-update."
    with suppress(OSError):
        if path.read_bytes()[:40].startswith(b"version https://git-lfs"):
            found, step = "a pointer of git-lfs, not the file", "Fetch it: git lfs pull."
    return _refused(str(path), "an intact golden", found, step)


def _refused(place: str, expected: str, found: str, step: str) -> GoldenError:
    return GoldenError(place=place, expected=expected, found=found, next_step=step)
