"""Where in a trace is each token's row of a stage, and what does the stage look like in canonical order?

Canonical form of one request: rows sorted by absolute position over all prefill chunks and decode steps, [T, ...];
expert rows, in whatever order the engine permuted them, as [T, S, ...] in (token, slot) order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import TraceError
from parity.metrics import contexts
from parity.metrics.bits import as_bits
from parity.records import Capture, site_name
from parity.trace import Trace


@dataclass(frozen=True)
class Aligned:
    """One stage of one request in canonical form.

    axes: `T` first, then `S` for expert rows. tensor: [T, ...] or [T, S, ...]; a view of the payload where its order
        allows it, else a copy; do not write to it.
    position: [T] int64, rising by one. phase: [T] str. captures: the captures the rows came from; launch: [T], which.
    expert: [T, S] int32 for expert rows, else None.
    row_in_expert: [T, S] int64 for expert rows, the row's number inside its expert in its launch; -1 where the capture
        has no `expert_offsets` or does not hold every row of the launch, so that it cannot be known.
    context: [T], equal for tokens that follow the same tokens (parity/metrics/repeats.py).
    """

    stage: str
    layer: int | None
    request: str
    axes: tuple[str, ...]
    tensor: torch.Tensor
    position: NDArray[np.int64]
    phase: NDArray[np.str_]
    launch: NDArray[np.int64]
    captures: tuple[Capture, ...]
    expert: NDArray[np.int32] | None = None
    row_in_expert: NDArray[np.int64] | None = None
    context: NDArray[np.uint64] | None = None

    @property
    def tile_m(self) -> int | None:
        """Tile height that every launch states, None when one does not or they disagree."""
        told = {capture.geometry.get("tile_m") for capture in self.captures}
        return told.pop() if len(told) == 1 else None

    @property
    def slots(self) -> int | None:
        """Top-k of expert rows, else None."""
        return None if self.expert is None else self.expert.shape[1]


def align(
    trace: Trace, stage: str, layer: int | None, request: int, *, between: tuple[int, int] | None = None
) -> Aligned | None:
    """Bring one stage of one request into canonical form.

    request: index into `trace.run.requests`. between: only positions from the first to before the second.
    Returns None when the trace holds no row of it. Raises TraceError, naming the positions, when one occurs twice or is
    missing between the first and the last; and for captures that disagree in dtype or width, or are shards.
    """
    found, least, most = [], None, None
    for capture in trace.select(stage=stage, layer=layer):
        here, ends = _rows_of(capture, request, between)
        if ends is not None:
            least = ends[0] if least is None else min(least, ends[0])
            most = ends[1] if most is None else max(most, ends[1])
        if len(here):
            found.append((capture, here))
    if not found:
        return None
    captures = tuple(capture for capture, _ in found)
    name = f"{site_name(layer, stage)} of request {trace.run.request_names[request]!r}"
    _check_alike(name, captures)
    sizes = [len(here) for _, here in found]
    position = np.concatenate([c.rows.position[here] for c, here in found]).astype(np.int64)
    by_expert = captures[0].axes[0] == "R"
    slot = np.concatenate([_slots(name, c)[here] for c, here in found]) if by_expert else np.zeros_like(position)
    if between is not None and least is not None and most is not None:  # the ends of a block may not be missing either
        whole = max(least, between[0]), min(most, between[1] - 1)
        if (int(position.min()), int(position.max())) != whole:
            told = f"{position.min()} to {position.max()}"
            raise _damaged(name, f"each position exactly once from {whole[0]} to {whole[1]}", told)
    tokens, slots = _check_grid(name, position, slot)
    at = (position - position.min()) * slots + slot
    payloads = [trace.tensor(capture) for capture in captures]
    if any(tuple(p.shape) != c.shape for p, c in zip(payloads, captures, strict=True)):
        raise _damaged(name, "payloads of the declared shapes", str([tuple(p.shape) for p in payloads]))
    flat = _gather(payloads, [here for _, here in found], at)
    order = np.argsort(at)
    launch = _launches(sizes, order, tokens, slots)
    expert = row_in_expert = None
    if by_expert:
        numbers = [_rows_in_expert(name, c)[here] for c, here in found]
        row_in_expert = np.concatenate(numbers)[order].reshape(tokens, slots)
        expert = np.concatenate([_experts(name, c)[here] for c, here in found])[order].reshape(tokens, slots)
    return Aligned(
        stage=stage,
        layer=layer,
        request=trace.run.request_names[request],
        axes=("T", "S", *captures[0].axes[1:]) if by_expert else captures[0].axes,
        tensor=flat.reshape(tokens, slots, *flat.shape[1:]) if by_expert else flat,
        position=np.arange(position.min(), position.min() + tokens),
        phase=_phases(captures, launch),
        launch=launch,
        captures=captures,
        expert=expert,
        row_in_expert=row_in_expert,
        context=_contexts(trace.run.requests[request], int(position.min()), tokens),
    )


def _launches(sizes: list[int], order: NDArray[np.intp], tokens: int, slots: int) -> NDArray[np.int64]:
    """[tokens], which capture each token's row came from; one number for all where there is one capture."""
    if len(sizes) == 1:
        return np.broadcast_to(np.int64(0), tokens)
    return np.repeat(np.arange(len(sizes)), sizes)[order][::slots]


def _phases(captures: tuple[Capture, ...], launch: NDArray[np.int64]) -> NDArray[np.str_]:
    """[T], the phase of each token; one word for all where it is one: a word a row weighs as much as the row's ids."""
    of_capture = np.array([c.phase for c in captures])
    return np.broadcast_to(of_capture[0], len(launch)) if len(set(of_capture)) == 1 else of_capture[launch]


_known: dict[int, tuple[tuple[int, ...], NDArray[np.uint64]]] = {}
_KNOWN = 64


def _contexts(ids: tuple[int, ...], first: int, tokens: int) -> NDArray[np.uint64] | None:
    """[tokens] of the positions from `first`; None for ids that do not reach so far."""
    if first < 0 or len(ids) < first + tokens:
        return None
    # By identity: to look a tuple of a million ids up by value reads all of them.
    held = _known.get(id(ids))
    if held is None or held[0] is not ids:
        while len(_known) >= _KNOWN:
            _known.pop(next(iter(_known)))
        held = _known[id(ids)] = ids, contexts(np.array(ids, np.int64))
    return held[1][first : first + tokens]


_LOOKED_AT_ONCE = 1 << 20


def _rows_of(
    capture: Capture, request: int, between: tuple[int, int] | None
) -> tuple[NDArray[np.intp], tuple[int, int] | None]:
    """(rows of that request in that range, least and largest position of the request in the capture)."""
    if between is None:
        here = np.flatnonzero(capture.rows.request == request)
        return here, None
    kept: list[NDArray[np.intp]] = []
    least = most = None
    for start in range(0, len(capture.rows.position), _LOOKED_AT_ONCE):
        part = slice(start, start + _LOOKED_AT_ONCE)
        position, mine = capture.rows.position[part], capture.rows.request[part] == request
        if not mine.any():
            continue
        of_request = position if mine.all() else position[mine]
        low, high = int(of_request.min()), int(of_request.max())
        least, most = (low if least is None else min(least, low)), (high if most is None else max(most, high))
        if low < between[1] and high >= between[0]:
            kept.append(start + np.flatnonzero(mine & (position >= between[0]) & (position < between[1])))
    here = np.concatenate(kept) if kept else np.zeros(0, np.intp)
    return here, None if least is None or most is None else (least, most)


def _check_alike(name: str, captures: tuple[Capture, ...]) -> None:
    kinds = {(c.axes, c.dtype, c.shape[1:]) for c in captures}
    if len(kinds) > 1:
        raise _damaged(name, "captures of one layout, dtype and width", "; ".join(sorted(map(str, kinds))))
    for capture in captures:
        if capture.reduction != "complete" or capture.placement is not None:
            raise _damaged(name, "complete tensors", f"capture {capture.number}, a shard or a partial sum")


def _check_grid(name: str, position: NDArray[np.int64], slot: NDArray[np.integer]) -> tuple[int, int]:
    """(tokens, slots) when every position from first to last has every slot exactly once."""
    slots = int(slot.max()) + 1
    first, tokens = int(position.min()), int(position.max() - position.min()) + 1
    if slot.min() < 0 or tokens > 2 * len(position) + 1024:
        raise _damaged(name, "slots from 0 and positions without gaps", f"{len(position)} rows over {tokens} positions")
    times = np.bincount((position - first) * slots + slot, minlength=tokens * slots)
    for wrong, what in ((times > 1, "more than once"), (times == 0, "missing")):
        cells = np.flatnonzero(wrong)
        if len(cells):
            unit = "position" if slots == 1 else "(position, slot)"
            pairs = [(c // slots + first, c % slots) for c in cells[:5].tolist()]
            names = [str(at) if slots == 1 else f"({at}, {s})" for at, s in pairs]
            more = f" and {len(cells) - 5} more" if len(cells) > 5 else ""
            raise _damaged(name, f"each {unit} exactly once", f"{', '.join(names)}{more} {what}")
    return tokens, slots


def _gather(payloads: list[torch.Tensor], rows: list[NDArray[np.intp]], at: NDArray[np.int64]) -> torch.Tensor:
    """Row `rows[i][j]` of payload i to place `at` (concatenated over i); a view when nothing has to move."""
    if len(payloads) == 1 and len(at) and np.array_equal(at, np.arange(len(at))):
        start = int(rows[0][0])
        if np.array_equal(rows[0], np.arange(start, start + len(at))):
            return payloads[0][start : start + len(at)]
    bits = [as_bits(payload) for payload in payloads]
    out = torch.empty((len(at), *payloads[0].shape[1:]), dtype=bits[0].dtype, device=payloads[0].device)
    done = 0
    for payload, here in zip(bits, rows, strict=True):
        target = torch.from_numpy(at[done : done + len(here)]).to(out.device)
        # Bits move, not values: fp8 has no indexing kernels, and a signalling NaN stays what it was.
        out[target] = payload[torch.from_numpy(here).to(payload.device)].to(out.device)
        done += len(here)
    return out.view(payloads[0].dtype)


def _slots(name: str, capture: Capture) -> NDArray[np.int32]:
    if capture.rows.slot is None:
        raise _damaged(name, "a slot for each expert row", f"none in capture {capture.number}")
    return capture.rows.slot


def _experts(name: str, capture: Capture) -> NDArray[np.int32]:
    if capture.rows.expert is None:
        raise _damaged(name, "an expert for each expert row", f"none in capture {capture.number}")
    return capture.rows.expert


def _rows_in_expert(name: str, capture: Capture) -> NDArray[np.int64]:
    """Number of each captured row inside its expert; -1 throughout when the capture cannot tell."""
    expert, offsets = _experts(name, capture), capture.geometry.get("expert_offsets")
    if offsets is None or int(offsets[-1]) != len(expert):
        return np.full(len(expert), -1, np.int64)
    offsets = np.asarray(offsets, np.int64)
    number = np.arange(len(expert)) - offsets[expert]
    outside = np.flatnonzero((number < 0) | (np.arange(len(expert)) >= offsets[expert + 1]))
    if len(outside):
        row = int(outside[0])
        found = f"capture {capture.number} row {row} with expert {int(expert[row])}, offsets {offsets.tolist()}"
        raise _damaged(name, "each row inside its expert's range of expert_offsets", found)
    return number


def _damaged(name: str, expected: str, found: str) -> TraceError:
    return TraceError(
        place=name,
        expected=expected,
        found=found,
        next_step="The trace does not describe its rows truly: correct the probe or importer that wrote it.",
    )
