"""How are the moments of a pair collected in one pass over memory, with every core and little memory of its own?

Rows are cut into runs by their width alone, so that no result depends on how many threads there are. A run goes to the
compiled kernel (parity.metrics.native), or to torch where there is none. Both are fp64 throughout and differ in the
order of additions only.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import DtypeError, ShapeError
from parity.metrics.moments import Moments
from parity.metrics.native import Bound, Kernel, Work, native_kernel
from parity.metrics.plain import plain_moments

READABLE = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)
"""Floating dtypes whose elements torch widens exactly, numbered as in moments.c. Packed formats (fp4, int4) hold two a
byte: unpack them first."""

_PLAIN_ELEMENTS = 1 << 17  # 1 MiB of fp64 a side: three such buffers stay in the second-level cache
_RUN_BYTES = 1 << 21  # of one side, of a thread's task: about 0.3 ms, against 0.05 ms to hand it over
_RUN_ROWS = 1 << 18
SUMS, ROUNDED_SUMS, COUNTS = 5, 10, 4
"""Numbers of a cell in moments.c: xx, yy, dy, dd, max_abs, with a bound element, own, fourth, size, lever; its
counts."""
LARGEST_SUMS = slice(4, 7)
Cells = tuple[NDArray[np.float64], NDArray[np.int64]]
Progress = Callable[[int], None]
R = TypeVar("R")


def pair_moments(
    *,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    edges: Sequence[int] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Moments:
    """Moments of each (row, column block) of a pair, in one pass.

    oracle, sut: [N, W] of any dtype in READABLE, not necessarily the same; N and W may be 0; either may be a memory
        map: no copy is made of rows whose elements are adjacent, else of 1 Mi elements a thread.
    edges: column boundaries 0 = e0 < e1 < ... < eC = W; None means one block.
    threads: None means `usable_threads()`. No bit depends on it.
    progress: called from this thread with the number of rows that have just been done.
    Returns Moments of shape [N, C], 80 bytes a cell (`fold_moments` keeps less); all products and sums in fp64. Values
    up to 1e150 do not overflow. torch's flushing of subnormals has no effect where the kernel is compiled.
    Raises ShapeError for shapes that differ (nothing broadcasts), DtypeError for a dtype that is not READABLE.
    """
    edges = checked_edges(oracle, sut, edges)
    rows, cells = len(oracle), max(len(edges) - 1, 0)
    kernel = native_kernel() if rows and cells else None
    if kernel is None:
        into = Moments.zeros(rows, cells)
        for first, part in _plain_parts(oracle, sut, edges, progress):
            for name in Moments.__dataclass_fields__:
                getattr(into, name)[first : first + len(part.count)] = getattr(part, name)
        return into
    sums, counts = native_cells(kernel, oracle, sut, edges, threads=threads, progress=progress)
    return as_moments(sums, counts, np.diff(np.array(edges, np.int64)))


def fold_moments(
    *,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    edges: Sequence[int] | None = None,
    group: NDArray[np.integer] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Moments, Moments]:
    """The moments of each row, and of each column block by group of rows, without keeping their cells.

    oracle, sut, edges, threads, progress: as in `pair_moments`.
    group: [N], from 0; a row of a negative group is in no column's moments. None puts every row into group 0.
    Returns (rows [N], columns [G, C]) with G the largest group + 1, at least 1. Memory beyond both results is a few MB.
    """
    edges = checked_edges(oracle, sut, edges)
    rows, cells = len(oracle), max(len(edges) - 1, 0)
    groups_of, groups = checked_groups(group, rows)
    kernel = native_kernel() if rows and cells else None
    if kernel is None:
        by_row, columns = Moments.zeros(rows), Moments.zeros(groups, cells)
        for first, part in _plain_parts(oracle, sut, edges, progress):
            here = slice(first, first + len(part.count))
            names, _, folded = part.groups(groups_of[here])
            for name in Moments.__dataclass_fields__:
                getattr(by_row, name)[here] = getattr(part.total(axis=1), name)
                _fold_into(getattr(columns, name), names, getattr(folded, name), largest=name == "max_abs")
        return by_row, columns
    sums, counts = np.zeros((rows, SUMS)), np.zeros((rows, COUNTS), np.int64)
    column_sums, column_counts = np.zeros((groups, cells, SUMS)), np.zeros((groups, cells, COUNTS), np.int64)
    parts = native_folds(kernel, oracle, sut, edges, groups_of, (sums, counts), threads=threads, progress=progress)
    for _, names, more_sums, more_counts in parts:
        add_sums(column_sums, names, more_sums)
        column_counts[names] += more_counts
    sizes = np.bincount(groups_of[groups_of >= 0], minlength=groups)
    widths = np.diff(np.array(edges, np.int64))
    width = np.int64(oracle.shape[1])
    return as_moments(sums, counts, width), as_moments(column_sums, column_counts, sizes[:, None] * widths)


def usable_threads() -> int:
    """OMP_NUM_THREADS where it is a number above 0, else the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdecimal() and 0 < int(asked) <= 4096:
        return int(asked)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def native_cells(
    kernel: Kernel,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    edges: Sequence[int],
    *,
    bound: Bound | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Cells:
    """Sums [N, C, 5] and counts [N, C, 4] in moments.c's order; ten sums with a bound."""
    shape = (len(oracle), len(edges) - 1)
    sums, counts = np.empty((*shape, SUMS if bound is None else ROUNDED_SUMS)), np.empty((*shape, COUNTS), np.int64)

    def one(first: int, last: int) -> None:
        here = slice(first, last)
        _call(kernel, oracle[here], sut[here], edges, sums[here], counts[here], bound=bound)

    together = 1 if bound is None else bound.together
    for _ in _each_run(one, shape[0], _row_bytes(oracle, sut), threads, progress, together):
        pass
    return sums, counts


def native_folds(
    kernel: Kernel,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    edges: Sequence[int],
    group: NDArray[np.int64],
    into: Cells,
    *,
    bound: Bound | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]]:
    """Each run of rows, in order: (the rows, the groups in it, their sums [g, C, 5] and counts [g, C, 4]).

    into: sums [N, 5] and counts [N, 4] of each row, zeroed; those of a run are there when it is yielded.
    """
    cells, width = len(edges) - 1, SUMS if bound is None else ROUNDED_SUMS
    sums, counts = into

    def one(first: int, last: int) -> tuple[slice, NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        here = slice(first, last)
        names, inside = _numbered(group[here])
        mine = np.zeros((len(names), cells, width)), np.zeros((len(names), cells, COUNTS), np.int64)
        _call(kernel, oracle[here], sut[here], edges, sums[here], counts[here], inside, mine, bound)
        kept = names >= 0
        return here, names[kept], mine[0][kept], mine[1][kept]

    together = 1 if bound is None else bound.together
    yield from _each_run(one, len(oracle), _row_bytes(oracle, sut), threads, progress, together)


def _numbered(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the groups that occur, ascending; for each row the place of its group among them, -1 for a negative group)."""
    if (groups == groups[0]).all():  # most often; a sort of millions of rows is spared
        return groups[:1], np.full(len(groups), min(int(groups[0]), 0), np.int64)
    names, inside = np.unique(groups, return_inverse=True)
    return names, np.where(names[inside] < 0, -1, inside).astype(np.int64)


def add_sums(into: NDArray[np.float64], names: NDArray[np.int64], more: NDArray[np.float64]) -> None:
    """Sums [g, C, 5 or 10] of groups `names` added to [G, C, 5 or 10]; of the largest ones, the larger."""
    top = np.maximum(into[names, :, LARGEST_SUMS], more[..., LARGEST_SUMS])
    into[names] += more
    into[names, :, LARGEST_SUMS] = top


def _fold_into(into: NDArray, names: NDArray[np.int64], more: NDArray, *, largest: bool) -> None:
    into[names] = np.maximum(into[names], more) if largest else into[names] + more


def _plain_parts(
    oracle: torch.Tensor, sut: torch.Tensor, edges: Sequence[int], progress: Progress | None
) -> Iterator[tuple[int, Moments]]:
    step = max(1, _PLAIN_ELEMENTS // max(oracle.shape[1], 1))
    for first in range(0, len(oracle) if len(edges) > 1 else 0, step):
        yield first, plain_moments(oracle[first : first + step], sut[first : first + step], edges)
        if progress is not None:
            progress(min(step, len(oracle) - first))


def _row_bytes(oracle: torch.Tensor, sut: torch.Tensor) -> int:
    return oracle.shape[1] * max(oracle.element_size(), sut.element_size())


def _each_run(
    one: Callable[[int, int], R],
    rows: int,
    width: int,
    threads: int | None,
    progress: Progress | None,
    together: int = 1,
) -> Iterator[R]:
    """`one(first, last)` of each run of rows, results in order, at most two waiting a thread.

    width: bytes of a row of the wider side. together: rows that no run divides; the last run takes a rest of fewer.
    """
    step = max(1, min(_RUN_BYTES // max(width, 1), _RUN_ROWS) // together) * together
    starts = list(range(0, max(rows - together + 1, 1), step))
    runs = list(pairwise([*starts, rows]))
    usable = usable_threads() if threads is None else threads
    if min(usable, len(runs)) <= 1:
        for first, last in runs:
            yield one(first, last)
            if progress is not None:
                progress(last - first)
        return
    with ThreadPoolExecutor(min(usable, len(runs)), thread_name_prefix="parity-moments") as pool:
        waiting: deque[tuple[int, Future[R]]] = deque()
        for first, last in runs:
            waiting.append((last - first, pool.submit(one, first, last)))
            if len(waiting) > 3 * usable:
                size, done = waiting.popleft()
                yield done.result()
                if progress is not None:
                    progress(size)
        for size, done in waiting:
            yield done.result()
            if progress is not None:
                progress(size)


def _call(
    kernel: Kernel,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    edges: Sequence[int],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    group: NDArray[np.int64] | None = None,
    columns: Cells | None = None,
    bound: Bound | None = None,
) -> None:
    # A view that is negated when it is read (`x.conj().imag`) has other bytes than values.
    y, x = (t.detach().to("cpu").resolve_neg() for t in (oracle, sut))
    y, x = (t if t.stride(1) == 1 or t.shape[1] == 1 else t.contiguous() for t in (y, x))
    marks = np.array(edges, np.int64)
    room: Cells | None = None
    if bound is not None and group is not None:
        shape = (min(2 * bound.together, len(y)), len(marks) - 1)
        room = np.empty((*shape, ROUNDED_SUMS)), np.empty((*shape, COUNTS), np.int64)
    work = Work(
        y.data_ptr(),
        x.data_ptr(),
        y.stride(0) * y.element_size(),
        x.stride(0) * x.element_size(),
        len(y),
        len(marks) - 1,
        marks.ctypes.data,
        None if group is None else group.ctypes.data,
        sums.ctypes.data,
        counts.ctypes.data,
        None if columns is None else columns[0].ctypes.data,
        None if columns is None else columns[1].ctypes.data,
        None if bound is None else ctypes.addressof(bound),
        None if room is None else room[0].ctypes.data,
        None if room is None else room[1].ctypes.data,
    )
    kernel(READABLE.index(y.dtype), READABLE.index(x.dtype), ctypes.addressof(work))


def as_moments(sums: NDArray[np.float64], counts: NDArray[np.int64], sizes: NDArray[np.int64] | np.int64) -> Moments:
    """The kernel's arrays as Moments, without a copy but of `finite`. sizes: pairs a cell, broadcast."""
    count = np.broadcast_to(sizes, counts.shape[:-1])
    xx, yy, dy, dd, top = (sums[..., k] for k in range(SUMS))
    bad, bad_y, bad_x, differ = (counts[..., k] for k in range(COUNTS))
    return Moments(count, count - bad, xx, yy, dy, dd, top, bad_y, bad_x, differ)


def checked_groups(group: NDArray[np.integer] | None, rows: int) -> tuple[NDArray[np.int64], int]:
    """The group of each row and how many groups there are; zeros and 1 for None. Raises ShapeError."""
    groups_of = np.zeros(rows, np.int64) if group is None else np.ascontiguousarray(group, np.int64)
    if groups_of.shape != (rows,):
        raise ShapeError(
            place="groups of rows",
            expected=f"one for each of {rows} rows",
            found=f"shape {list(groups_of.shape)}",
            next_step="Give rows that belong to no group a negative number.",
        )
    return groups_of, max(int(groups_of.max(initial=0)) + 1, 1)


def checked_edges(oracle: torch.Tensor, sut: torch.Tensor, edges: Sequence[int] | None) -> tuple[int, ...]:
    """The column edges, () for no columns."""
    if oracle.shape != sut.shape or oracle.ndim != 2:
        raise ShapeError(
            place="pair of tensors to measure",
            expected="two tensors of one shape [N, W]; nothing broadcasts",
            found=f"oracle {list(oracle.shape)}, sut {list(sut.shape)}",
            next_step="Align both captures first (parity.align), or compare them with parity.compare.",
        )
    for side, tensor in (("oracle", oracle), ("sut", sut)):
        if tensor.dtype not in READABLE:
            raise DtypeError(
                place=f"{side} tensor to measure",
                expected="one of " + ", ".join(str(d).removeprefix("torch.") for d in READABLE),
                found=str(tensor.dtype).removeprefix("torch."),
                next_step="Integers are compared as sets of ids; unpack or dequantize packed formats first.",
            )
    width = oracle.shape[1]
    if not width:
        return ()
    marks = (0, width) if edges is None else tuple(edges)
    if len(marks) < 2 or marks[0] != 0 or marks[-1] != width or any(a >= b for a, b in pairwise(marks)):
        raise ShapeError(
            place="column edges",
            expected=f"rising from 0 to the width {width}",
            found=str(list(marks)),
            next_step="Take them from parity.metrics.column_edges.",
        )
    return marks
