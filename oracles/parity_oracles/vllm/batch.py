"""Which token is each row of a packed batch? Rows of vLLM's steps by (request, absolute position)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import ProbeError
from parity.metrics.bits import as_bits
from parity.records import Rows


@dataclass(frozen=True)
class Feeding:
    """What the run is to feed: token ids by request, and how many of each are its prompt; the rest is decoded."""

    requests: tuple[tuple[int, ...], ...]
    prompts: tuple[int, ...]

    @property
    def last_position(self) -> list[int]:
        """Last absolute position of each prompt."""
        return [prompt - 1 for prompt in self.prompts]


@dataclass(frozen=True)
class Segment:
    """Rows first..stop-1 of a batch: positions start.. of one request."""

    request: int
    first: int
    stop: int
    start: int


@dataclass(frozen=True)
class Group:
    """Rows of a batch that one record may describe together: same phase, step and chunk. index: [N] rows of it."""

    phase: str
    step: int
    chunk: int
    index: NDArray[np.intp]


@dataclass(frozen=True)
class Batch:
    """One packed step: its segments, one after the other."""

    segments: tuple[Segment, ...]

    def __len__(self) -> int:
        return self.segments[-1].stop if self.segments else 0

    @property
    def rows(self) -> Rows:
        """Request and absolute position of every row."""
        sizes = [s.stop - s.first for s in self.segments]
        request = np.repeat(np.array([s.request for s in self.segments], np.int32), sizes)
        position = [np.arange(s.start, s.start + s.stop - s.first, dtype=np.int64) for s in self.segments]
        return Rows(request, np.concatenate(position) if position else np.zeros(0, np.int64))

    @property
    def last_rows(self) -> list[int]:
        """The last row of each segment: those that an engine samples from."""
        return [segment.stop - 1 for segment in self.segments]


def read_batch(
    names: Sequence[str],
    counts: Sequence[int],
    positions: torch.Tensor,
    ids: torch.Tensor | None,
    *,
    known: Mapping[str, int],
    feeding: Feeding,
) -> Batch:
    """The batch of a step from what the engine says of it, checked against what it was asked to run.

    names, counts: the engine's name and number of rows of each request, in the order in which they are packed.
    positions: [T'] absolute positions, T' at least the sum of counts (what is beyond is padding). ids: [T'] token ids.
    known: index of a request by the engine's name of it.
    Raises ProbeError for a request that was not asked for, positions that do not rise by one, and ids that are not the
    request's at these positions: captures must not be filed under another token's name.
    """
    total = sum(counts)
    if len(names) != len(counts) or positions.dim() != 1 or len(positions) < total:
        raise _wrong("positions for every row", f"{len(positions)} positions, {len(names)} requests of {list(counts)}")
    at = positions[:total].cpu().numpy().astype(np.int64)
    fed = None if ids is None else ids.reshape(-1)[:total].cpu().numpy().astype(np.int64)
    segments, first = [], 0
    for name, count in zip(names, counts, strict=True):
        if name not in known:
            raise _wrong(f"requests among {sorted(known)}", repr(name))
        request, stop = known[name], first + count
        if not count:
            continue
        start = int(at[first])
        if not np.array_equal(at[first:stop], np.arange(start, start + count)):
            raise _wrong(f"positions of {name} rising by one", str(at[first:stop][:8].tolist()))
        wanted = np.array(feeding.requests[request][start : start + count], np.int64)
        if fed is not None and not np.array_equal(fed[first:stop], wanted):
            raise _wrong(
                f"ids of request {request} at positions {start} to {start + count - 1}: {wanted[:8].tolist()}",
                str(fed[first:stop][:8].tolist()),
            )
        segments.append(Segment(request, first, stop, start))
        first = stop
    return Batch(tuple(segments))


@dataclass
class Progress:
    """How far each request of a run is: rows computed so far, and prefill chunks of each request."""

    feeding: Feeding
    _next: dict[int, int] = field(default_factory=dict)
    _chunks: dict[int, int] = field(default_factory=dict)
    _first: dict[int, int] = field(default_factory=dict)

    def groups(self, batch: Batch) -> Iterator[Group]:
        """The rows of the next step by phase, step and chunk.

        Raises ProbeError for a position that was computed before (a request that was pushed out of the cache and came
        back), and for rows of prompt and decode in one segment (speculation).
        """
        found: dict[tuple[str, int, int], list[NDArray[np.intp]]] = {}
        for segment in batch.segments:
            found.setdefault(self._place(segment), []).append(np.arange(segment.first, segment.stop))
        for (phase, step, chunk), index in found.items():
            yield Group(phase, step, chunk, np.concatenate(index))

    def first_rows(self) -> dict[int, int]:
        """The first position that was computed, by request; what lies before it came from a cache."""
        return dict(self._first)

    def _place(self, segment: Segment) -> tuple[str, int, int]:
        request, size = segment.request, segment.stop - segment.first
        expected = self._next.get(request)
        if expected is not None and segment.start != expected:
            raise _wrong(
                f"request {request} to go on at position {expected}",
                f"position {segment.start}: it was pushed out of the KV cache and computed again",
                "Give the engine a larger cache, or run fewer or shorter requests at once.",
            )
        self._first.setdefault(request, segment.start)
        self._next[request] = segment.start + size
        prompt = self.feeding.prompts[request]
        if segment.start >= prompt:
            if size != 1:
                raise _wrong("one row a decode step", f"{size} rows of request {request}", "Turn speculation off.")
            return "decode", segment.start - prompt + 1, 0
        if segment.start + size > prompt:
            raise _wrong("prompt and decode in steps of their own", f"both in one, request {request}")
        chunk = self._chunks.get(request, 0)
        self._chunks[request] = chunk + 1
        return "prefill", 0, chunk


def rows_given(given: torch.Tensor, hidden: torch.Tensor, last: Sequence[int], taken: Container[int] = ()) -> list[int]:
    """Which rows of `hidden` [T, D] the engine handed on as `given` [n, D], found by their bits.

    last: rows that it samples from; they are meant when `given` is those. Otherwise rows that follow each other, as
    those of a prompt do, else row by row. Where equal bits occur several times (two prompts that begin alike), rows not
    yet `taken` come first. Raises ProbeError for a row that is none of them.
    """
    if given.dim() != 2 or given.shape[1:] != hidden.shape[1:]:
        raise _wrong(f"rows of {hidden.shape[-1]} values for the LM head", f"shape {list(given.shape)}")
    a, b = (as_bits(t.detach()).cpu().numpy() for t in (given, hidden))
    if not len(a):
        return []
    if len(a) == len(last) and np.array_equal(a, b[list(last)]):
        return list(last)
    at: dict[bytes, list[int]] = {}
    for row in range(len(b)):
        at.setdefault(b[row].tobytes(), []).append(row)
    runs = [first for first in at.get(a[0].tobytes(), ()) if np.array_equal(a, b[first : first + len(a)])]
    if runs:
        first = min(runs, key=lambda start: (sum(row in taken for row in range(start, start + len(a))), start))
        return list(range(first, first + len(a)))
    found: list[int] = []
    for number in range(len(a)):
        rows = at.get(a[number].tobytes())
        if rows is None:
            raise _wrong("rows that the final norm gave, for the LM head", f"row {number} of {len(a)} is none of them")
        found.append(min(rows, key=lambda row: (row in found, row in taken, row)))
    return found


def _wrong(expected: str, found: str, next_step: str = "") -> ProbeError:
    return ProbeError(
        place="packed batch of vLLM",
        expected=expected,
        found=found,
        next_step=next_step or "This version packs its batches otherwise than parity_oracles/vllm/batch.py reads them.",
    )
