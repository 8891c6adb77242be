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
from parity.metrics.native import Kernel, Work, native_kernel
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
_RUN_ELEMENTS = 1 << 20  # of a thread's task: about 0.2 ms, against 0.05 ms to hand it over
_SUMS, _COUNTS = 5, 4  # of a cell, in moments.c's order
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
    threads: None means every core this process may use, at most torch's number of threads. No bit depends on it.
    progress: called from this thread with the number of rows that have just been done.
    Returns Moments of shape [N, C], 80 bytes a cell (`fold_moments` keeps less); all products and sums in fp64. Values
    up to 1e150 do not overflow. torch's flushing of subnormals has no effect where the kernel is compiled.
    Raises ShapeError for shapes that differ (nothing broadcasts), DtypeError for a dtype that is not READABLE.
    """
    edges = _checked(oracle, sut, edges)
    rows, cells = len(oracle), max(len(edges) - 1, 0)
    kernel = native_kernel() if rows and cells else None
    if kernel is None:
        into = Moments.zeros(rows, cells)
        for first, part in _plain_parts(oracle, sut, edges, progress):
            for name in Moments.__dataclass_fields__:
                getattr(into, name)[first : first + len(part.count)] = getattr(part, name)
        return into
    sums, counts = np.empty((rows, cells, _SUMS)), np.empty((rows, cells, _COUNTS), np.int64)

    def one(first: int, last: int) -> None:
        _call(kernel, oracle[first:last], sut[first:last], edges, sums[first:last], counts[first:last])

    for _ in _each_run(one, rows, oracle.shape[1], threads, progress):
        pass
    return _moments(sums, counts, np.diff(np.array(edges, np.int64)))


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
    edges = _checked(oracle, sut, edges)
    rows, cells = len(oracle), max(len(edges) - 1, 0)
    groups_of = np.zeros(rows, np.int64) if group is None else np.ascontiguousarray(group, np.int64)
    if groups_of.shape != (rows,):
        raise ShapeError(
            place="groups of rows",
            expected=f"one for each of {rows} rows",
            found=f"shape {list(groups_of.shape)}",
            next_step="Give rows that belong to no group a negative number.",
        )
    groups = max(int(groups_of.max(initial=0)) + 1, 1)
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
    sums, counts = np.zeros((rows, _SUMS)), np.zeros((rows, _COUNTS), np.int64)
    column_sums, column_counts = np.zeros((groups, cells, _SUMS)), np.zeros((groups, cells, _COUNTS), np.int64)

    def one(first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        names, inside = np.unique(groups_of[first:last], return_inverse=True)
        inside = np.where(names[inside] < 0, -1, inside).astype(np.int64)
        mine = np.zeros((len(names), cells, _SUMS)), np.zeros((len(names), cells, _COUNTS), np.int64)
        _call(kernel, oracle[first:last], sut[first:last], edges, sums[first:last], counts[first:last], inside, mine)
        kept = names >= 0
        return names[kept], mine[0][kept], mine[1][kept]

    for names, more_sums, more_counts in _each_run(one, rows, oracle.shape[1], threads, progress):
        top = np.maximum(column_sums[names, :, -1], more_sums[..., -1])
        column_sums[names] += more_sums
        column_sums[names, :, -1] = top
        column_counts[names] += more_counts
    sizes = np.bincount(groups_of[groups_of >= 0], minlength=groups)
    widths = np.diff(np.array(edges, np.int64))
    return _moments(sums, counts, np.int64(oracle.shape[1])), _moments(
        column_sums, column_counts, sizes[:, None] * widths
    )


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


def _each_run(
    one: Callable[[int, int], R], rows: int, width: int, threads: int | None, progress: Progress | None
) -> Iterator[R]:
    """`one(first, last)` of each run of rows, results in order, at most two waiting a thread."""
    step = max(1, _RUN_ELEMENTS // max(width, 1))
    runs = [(first, min(first + step, rows)) for first in range(0, rows, step)]
    usable = min(torch.get_num_threads(), len(os.sched_getaffinity(0))) if threads is None else threads
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
    columns: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None,
) -> None:
    y, x = (t.detach().to("cpu") for t in (oracle, sut))
    y, x = (t if t.stride(1) == 1 or t.shape[1] == 1 else t.contiguous() for t in (y, x))
    marks = np.array(edges, np.int64)
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
    )
    kernel(READABLE.index(y.dtype), READABLE.index(x.dtype), ctypes.addressof(work))


def _moments(sums: NDArray[np.float64], counts: NDArray[np.int64], sizes: NDArray[np.int64] | np.int64) -> Moments:
    """The kernel's arrays as Moments, without a copy but of `finite`. sizes: pairs a cell, broadcast."""
    count = np.broadcast_to(sizes, counts.shape[:-1])
    xx, yy, dy, dd, top = (sums[..., k] for k in range(_SUMS))
    bad, bad_y, bad_x, differ = (counts[..., k] for k in range(_COUNTS))
    return Moments(count, count - bad, xx, yy, dy, dd, top, bad_y, bad_x, differ)


def _checked(oracle: torch.Tensor, sut: torch.Tensor, edges: Sequence[int] | None) -> tuple[int, ...]:
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
