"""How does a trace become the named tensors and the JSON of one file, and a trace again?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from parity.errors import GoldenError
from parity.reading import read_record
from parity.records import Capture, Rows, Run, as_json
from parity.trace import MemoryTrace, Trace

_ROW_FIELDS = ("request", "position", "slot", "expert")


def pack_trace(trace: Trace) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors by name, JSON): payloads as `L00.moe.gate@12`, 12 the capture's number; row labels as `rows@0`, [4, N].

    Captures with the same rows share one tensor of labels. Launch and geometry are left out: they are not judged.
    """
    tensors: dict[str, torch.Tensor] = {}
    labels: dict[bytes, str] = {}
    lines = []
    for capture in trace.captures:
        key = f"{capture.name}@{capture.number}"
        tensors[key] = trace.tensor(capture).detach().to("cpu", copy=True).contiguous()
        table = _table(capture.rows)
        name = labels.setdefault(table.tobytes(), f"rows@{len(labels)}")
        tensors[name] = torch.from_numpy(table)
        lines.append(
            {
                **{field: as_json(getattr(capture, field)) for field in _FIELDS},
                "tensor": key,
                "rows": name,
                "expert_rows": capture.rows.slot is not None,
            }
        )
    return tensors, {"run": as_json(trace.run), "captures": lines}


_FIELDS = (
    "number", "stage", "layer", "phase", "step", "chunk", "axes", "dtype", "shape", "placement", "reduction", "basis",
    "model", "variant",
)  # fmt: skip


def unpack_trace(tensors: Mapping[str, torch.Tensor], content: Any, *, place: str) -> MemoryTrace:
    """The trace that `pack_trace` made these of. Raises GoldenError where they do not belong together."""
    try:
        run = read_record(Run, content["run"], place=f"{place}, run")
        captures, payloads = [], {}
        for line in content["captures"]:
            table = tensors[line["rows"]].numpy()
            number = line["number"]
            payloads[number] = tensors[line["tensor"]]
            fields = {**{name: line[name] for name in _FIELDS}, "rows": None}
            capture = read_record(Capture, fields, place=f"{place}, capture {number}")
            captures.append(Capture(**{**vars(capture), "rows": _rows(table, experts=line["expert_rows"])}))
            if captures[-1].shape != tuple(payloads[number].shape) or len(captures[-1].rows) != captures[-1].shape[0]:
                raise ValueError(f"{line['tensor']} has another shape than its capture")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise GoldenError(
            place=place,
            expected="the runs and captures of a trace",
            found=f"{type(error).__name__}: {error}"[:200],
            next_step="Restore the file from version control; it was altered.",
        ) from error
    return MemoryTrace(run, tuple(captures), payloads)


def _table(rows: Rows) -> np.ndarray[Any, np.dtype[np.int64]]:
    absent = np.full(len(rows), -1, np.int64)
    values = [getattr(rows, field) for field in _ROW_FIELDS]
    return np.stack([absent if value is None else np.asarray(value, np.int64) for value in values])


def _rows(table: np.ndarray[Any, np.dtype[np.int64]], *, experts: bool) -> Rows:
    request, position, slot, expert = table
    return Rows(
        request.astype(np.int32),
        position.copy(),
        slot.astype(np.int32) if experts else None,
        expert.astype(np.int32) if experts else None,
    )
