"""How is the row metadata of a capture stored? As a constant, a range, or a companion tensor of the same shard."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import TraceError
from parity.records import Capture, Rows
from parity.trace.jsontext import is_count
from parity.trace.shard import Shard

# Field of the manifest's `rows` to dtype in memory. `row` is `geometry["row"]`: the row's number in the kernel's
# launch, there when a filter kept only some rows of it.
FIELDS: dict[str, type[np.signedinteger[Any]]] = {
    "request": np.int32,
    "position": np.int64,
    "slot": np.int32,
    "expert": np.int32,
    "row": np.int64,
}
REQUIRED = ("request", "position")
FORMS = ("constant", "start", "tensor")
MAX_ROWS = 2**24
"""Most rows of one capture: sixteen million (token, slot) pairs of one step."""
MAX_RANGE_BYTES = 2**30
"""Most memory for rows that the manifest gives as ranges: forty bytes of text must not claim all memory."""


def fields_of(capture: Capture) -> dict[str, NDArray[Any]]:
    """The row metadata of a capture by field, each [N] of the field's dtype; absent fields are left out."""
    rows = capture.rows
    values = {
        "request": rows.request,
        "position": rows.position,
        "slot": rows.slot,
        "expert": rows.expert,
        "row": capture.geometry.get("row"),
    }
    return {name: np.asarray(value, FIELDS[name]) for name, value in values.items() if value is not None}


def encode(values: NDArray[Any], store: Callable[[torch.Tensor], str]) -> dict[str, Any]:
    """One field for the manifest: `{"constant": v}`, `{"start": a, "count": n}` or `{"tensor": name, "crc": c}`.

    store: puts a companion tensor into the shard and returns its name.
    """
    count = len(values)
    if not count or bool((values == values[0]).all()):
        return {"constant": int(values[0]) if count else 0}
    if np.array_equal(values, np.arange(int(values[0]), int(values[0]) + count)):
        return {"start": int(values[0]), "count": count}
    values = np.ascontiguousarray(values)
    return {"tensor": store(torch.from_numpy(values)), "crc": zlib.crc32(values.data.cast("B"))}


class RowReader:
    """Decodes the `rows` of manifest lines. Captures that name the same range or row tensor share one array."""

    def __init__(self, shard_of: Callable[[str], Shard]) -> None:
        self._shard_of = shard_of
        self._ranges: dict[tuple[int, int, str], NDArray[Any]] = {}
        self._range_bytes = 0
        self._crcs: dict[tuple[str, str], int] = {}
        self._tensors: dict[tuple[str, str, str], NDArray[Any]] = {}

    def read(self, rows: Any, *, shard: str, count: int, place: str) -> tuple[Rows, NDArray[np.int64] | None]:
        """The `rows` of a line as Rows of `count` rows, and the launch's row numbers if they were stored.

        Raises TraceError for another form, values out of range, or a row tensor whose CRC-32 is wrong.
        """
        if not isinstance(rows, Mapping) or any(rows.get(name) is None for name in REQUIRED):
            raise TraceError(
                place=place,
                expected="rows with request and position",
                found=repr(rows)[:200],
                next_step="See docs/trace-format.md, section Rows.",
            )
        found = {
            name: self._field(rows[name], dtype, shard=shard, count=count, place=f"{place}, rows.{name}")
            for name, dtype in FIELDS.items()
            if rows.get(name) is not None
        }
        kept = Rows(found["request"], found["position"], found.get("slot"), found.get("expert"))
        return kept, found.get("row")

    def _field(self, value: Any, dtype: type[Any], *, shard: str, count: int, place: str) -> NDArray[Any]:
        limit = int(np.iinfo(dtype).max)
        if isinstance(value, Mapping) and count <= MAX_ROWS and sum(form in value for form in FORMS) == 1:
            start, constant = value.get("start"), value.get("constant")
            if is_count(constant) and constant <= limit:
                # A zero-stride view: a constant costs no memory, whatever number of rows the shape claims.
                return np.broadcast_to(dtype(constant), (count,))
            if is_count(start) and value.get("count") == count and start + count <= limit:
                return self._range(start, count, dtype, place)
            if isinstance(value.get("tensor"), str) and is_count(value.get("crc")):
                entry = self._shard_of(shard).entry(value["tensor"])
                if entry.dtype in (torch.int32, torch.int64) and entry.shape == (count,):
                    self._check_crc(shard, value["tensor"], value["crc"], place)
                    array = self._tensor(shard, value["tensor"], dtype)
                    if array is not None:
                        return array
                    value = f"tensor {value['tensor']!r} with values outside"
                else:
                    value = f"{entry.dtype} of shape {entry.shape}"
        raise TraceError(
            place=place,
            expected=f"one of: a constant, range, integer tensor of {count} rows (at most {MAX_ROWS}), none negative, "
            f"up to {limit}",
            found=repr(value)[:200],
            next_step="See docs/trace-format.md, section Rows.",
        )

    def _range(self, start: int, count: int, dtype: type[Any], place: str) -> NDArray[Any]:
        key = (start, count, np.dtype(dtype).str)
        if key not in self._ranges:
            self._range_bytes += count * np.dtype(dtype).itemsize
            if self._range_bytes > MAX_RANGE_BYTES:
                raise TraceError(
                    place=place,
                    expected=f"at most {MAX_RANGE_BYTES} bytes of row numbers in different ranges",
                    found="more",
                    next_step="Split the trace: one folder for each part of the run.",
                )
            self._ranges[key] = np.arange(start, start + count, dtype=dtype)
        return self._ranges[key]

    def _check_crc(self, shard: str, name: str, expected: int, place: str) -> None:
        if (shard, name) not in self._crcs:
            self._crcs[shard, name] = self._shard_of(shard).crc(name)
        check_crc(place, name, expected, self._crcs[shard, name])

    def _tensor(self, shard: str, name: str, dtype: type[Any]) -> NDArray[Any] | None:
        """A row tensor as `dtype`, a copy; None when a value is negative or too large for it."""
        key = (shard, name, np.dtype(dtype).str)
        if key not in self._tensors:
            values = self._shard_of(shard).tensor(name).numpy()
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= np.iinfo(dtype).max:
                return None
            self._tensors[key] = values.astype(dtype)
        return self._tensors[key]


def check_crc(place: str, name: str, expected: int, found: int) -> None:
    """Raise TraceError when two CRC-32 of one payload differ."""
    if expected != found:
        raise TraceError(
            place=f"{place}, tensor {name!r}",
            expected=f"payload CRC-32 {expected}",
            found=str(found),
            next_step="The payload was altered after it was written: capture again or restore it from a copy.",
        )
