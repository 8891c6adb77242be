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
from parity.trace.shard import is_count

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


def decode(
    rows: Any, *, count: int, place: str, fetch: Callable[[str, int], torch.Tensor]
) -> tuple[Rows, NDArray[np.int64] | None]:
    """The `rows` of a manifest line as Rows of `count` rows, and the launch's row numbers if they were stored.

    fetch: (name, crc) to the companion tensor of the line's shard, checked. Raises TraceError for another form.
    """
    if not isinstance(rows, Mapping) or any(name not in rows for name in REQUIRED):
        raise TraceError(
            place=place,
            expected="rows with request and position",
            found=repr(rows)[:200],
            next_step="See docs/trace-format.md, section Rows.",
        )
    found = {
        name: _decode_field(rows[name], dtype, count=count, place=f"{place}, rows.{name}", fetch=fetch)
        for name, dtype in FIELDS.items()
        if rows.get(name) is not None
    }
    kept = Rows(found["request"], found["position"], found.get("slot"), found.get("expert"))
    return kept, found.get("row")


def _decode_field(
    value: Any, dtype: type[Any], *, count: int, place: str, fetch: Callable[[str, int], torch.Tensor]
) -> NDArray[Any]:
    limit = int(np.iinfo(dtype).max)
    if isinstance(value, Mapping):
        if is_count(value.get("constant")) and value["constant"] <= limit:
            # A zero-stride view: a constant costs no memory, whatever number of rows the shape claims.
            return np.broadcast_to(dtype(value["constant"]), (count,))
        if is_count(value.get("start")) and value.get("count") == count and value["start"] + count <= limit:
            return np.arange(value["start"], value["start"] + count, dtype=dtype)
        if isinstance(value.get("tensor"), str) and is_count(value.get("crc")):
            tensor = fetch(value["tensor"], value["crc"])
            if tensor.dtype in (torch.int32, torch.int64) and tuple(tensor.shape) == (count,):
                if not count or 0 <= int(tensor.min()) <= int(tensor.max()) <= limit:
                    return tensor.numpy().astype(dtype)
                value = f"values from {int(tensor.min())} to {int(tensor.max())}"
            else:
                value = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
    raise TraceError(
        place=place,
        expected=f"a constant, a range or an integer tensor of {count} rows, none negative, up to {limit}",
        found=repr(value)[:200],
        next_step="See docs/trace-format.md, section Rows.",
    )
