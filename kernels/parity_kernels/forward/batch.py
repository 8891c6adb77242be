"""Which rows does one step of the engine hold? Packs requests into prefill chunks and decode steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.records import Rows
from parity.runner import Request, Schedule


@dataclass(frozen=True)
class Step:
    """One pass through the model: T token rows of one or more requests, packed without padding.

    ids: [T] int64. positions: [T] int64, absolute. row_slot: [T] int32, the cache slot of each row.
    slots: [B] int32, one a request in this step. row_start: [B+1] int32. first_position: [B] int32.
    max_rows, max_context: over the requests. rows: the same for a trace.
    last_position: of each request of the run, the last position of its prompt.
    """

    phase: str
    index: int
    chunk: int
    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    row_start: torch.Tensor
    first_position: torch.Tensor
    row_slot: torch.Tensor
    max_rows: int
    max_context: int
    rows: Rows
    last_position: tuple[int, ...]


def plan_steps(requests: Sequence[Request], schedule: Schedule, device: torch.device) -> Iterator[Step]:
    """The steps that feed `requests`: prefill chunks first, then the last `schedule.decode` ids one by one."""
    prompts = [len(request.ids) - schedule.decode for request in requests]
    last = tuple(prompt - 1 for prompt in prompts)
    chunk = schedule.chunk or max(prompts, default=0)
    slots = schedule.slots
    start, number = 0, 0
    while any(start < prompt for prompt in prompts):
        spans = [(i, start, min(start + chunk, prompt)) for i, prompt in enumerate(prompts) if start < prompt]
        yield pack(requests, spans, phase="prefill", index=0, chunk=number, last=last, device=device, slots=slots)
        start, number = start + chunk, number + 1
    for step in range(1, schedule.decode + 1):
        spans = [(i, prompt + step - 1, prompt + step) for i, prompt in enumerate(prompts)]
        yield pack(requests, spans, phase="decode", index=step, chunk=0, last=last, device=device, slots=slots)


def pack(
    requests: Sequence[Request],
    spans: Sequence[tuple[int, int, int]],
    *,
    phase: str,
    index: int,
    chunk: int,
    last: tuple[int, ...],
    device: torch.device,
    slots: Sequence[int] = (),
) -> Step:
    """The step that holds positions [first, stop) of each (request, first, stop) in `spans`, in that order.

    slots: cache slot of each request; empty for 0, 1, 2, ...
    """
    slot_of = np.array(slots or range(len(requests)), dtype=np.int32)
    counts = [stop - first for _, first, stop in spans]
    request = np.repeat(np.array([i for i, _, _ in spans], dtype=np.int32), counts)
    position = np.concatenate([np.arange(first, stop, dtype=np.int64) for _, first, stop in spans])
    ids = [token for i, first, stop in spans for token in requests[i].ids[first:stop]]

    def i32(values: object) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return Step(
        phase=phase,
        index=index,
        chunk=chunk,
        ids=torch.tensor(ids, dtype=torch.int64, device=device),
        positions=torch.tensor(position, device=device),
        slots=i32([slot_of[i] for i, _, _ in spans]),
        row_start=i32(np.concatenate([[0], np.cumsum(counts)])),
        first_position=i32([first for _, first, _ in spans]),
        row_slot=i32(slot_of[request]),
        max_rows=max(counts),
        max_context=max(stop for _, _, stop in spans),
        rows=Rows(request, position),
        last_position=last,
    )
