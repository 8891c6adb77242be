"""How does the interpreter move regular tiles at memory speed?

Nearly every tile of pointers is a column of row addresses plus a row of column offsets, and its mask a column of valid
rows and a row of valid columns. Stock code spells out all M x N pointers and masks and then walks them one by one
(10 ns an element). Here the sum and the conjunction stay apart until somebody wants them spelled out, and a load or
store of such a tile is one strided copy, or one gather of whole rows. No arithmetic on values happens here.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def thin(data: np.ndarray) -> np.ndarray:
    """`data` with every broadcast axis (stride 0) cut to one element."""
    if 0 not in data.strides:
        return data
    return data[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in data.strides)]


def widen(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`data` [1, ...] of one element as a read-only array of `shape`, every stride 0; what np.broadcast_to gives, at a
    tenth of its cost."""
    if data.dtype.kind not in "biuf":  # ml_dtypes' types cannot be handed over as a buffer
        return np.broadcast_to(data, shape)
    wide = np.ndarray(shape, data.dtype, data, 0, (0,) * len(shape))
    wide.flags.writeable = False
    return wide


class Memory:
    """Process memory from an address on, as numpy sees it."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype) -> None:
        self.__array_interface__ = {
            "data": (address, False), "shape": shape, "strides": strides, "typestr": dtype.str, "version": 3,
        }  # fmt: skip


def window(address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A writable array over the memory at `address`."""
    return np.asarray(Memory(address, shape, strides, dtype))


def _span(flags: np.ndarray) -> tuple[Any, np.ndarray]:
    """Where `flags` (1-D bool) are set: as a slice when they are one run, else as indices; and the indices."""
    where = np.flatnonzero(flags)
    if where.size and where[-1] - where[0] + 1 == where.size:
        return slice(int(where[0]), int(where[-1]) + 1), where
    return where, where


def _step(values: np.ndarray) -> int | None:
    """The common difference of `values` (int64, 1-D), 0 for one value, None when there is none."""
    if values.size < 2:
        return 0
    first = int(values[1] - values[0])
    return first if bool((np.diff(values) == first).all()) else None


class Tile:
    """The valid part of a 2-D tile of pointers: `view` is that part of memory, `place` where it lies in the tile.

    When rows are irregular `view` holds every window a row could start at, and `pick` the windows that are rows.
    """

    def __init__(self, view: np.ndarray, place: tuple[Any, Any], pick: np.ndarray | None, flipped: bool) -> None:
        self.view, self.place, self.pick, self.flipped = view, place, pick, flipped

    def read(self) -> np.ndarray:
        """The valid part's elements, [valid rows, valid columns]."""
        data = self.view if self.pick is None else self.view[self.pick]
        return data.T if self.flipped else data

    def write(self, data: np.ndarray) -> None:
        """Store the valid part."""
        data = data.T if self.flipped else data
        if self.pick is None:
            self.view[...] = data
        else:
            self.view[self.pick] = data


def tile_of(
    rows: np.ndarray, cols: np.ndarray, row_ok: np.ndarray, col_ok: np.ndarray, dtype: np.dtype, *, storing: bool
) -> Tile | None:
    """The tile of addresses rows[:, None] + cols[None, :] where both masks hold; None when it has no regular form.

    A store to a tile that names an address twice is left to the caller, whose order of writes decides.
    """
    row_place, row_at = _span(row_ok)
    col_place, col_at = _span(col_ok)
    place = _index(row_place, col_place)
    if not row_at.size or not col_at.size:
        return Tile(np.empty((row_at.size, col_at.size), dtype), place, None, False)
    starts, offsets = rows.astype(np.int64)[row_at], cols.astype(np.int64)[col_at]
    row_step, col_step = _step(starts), _step(offsets)
    if row_step is not None and col_step is not None:
        if storing and _collides((row_step, starts.size), (col_step, offsets.size), dtype.itemsize):
            return None
        view = window(int(starts[0] + offsets[0]), (starts.size, offsets.size), (row_step, col_step), dtype)
        return Tile(view, place, None, False)
    if col_step == dtype.itemsize or (col_step is not None and offsets.size == 1):
        return _gather(starts + offsets[0], offsets.size, place, dtype, flipped=False, storing=storing)
    if row_step == dtype.itemsize or (row_step is not None and starts.size == 1):
        return _gather(offsets + starts[0], starts.size, place, dtype, flipped=True, storing=storing)
    return None


def _index(rows: Any, cols: Any) -> tuple[Any, Any]:
    if isinstance(rows, slice) or isinstance(cols, slice):
        return rows, cols
    return rows[:, None], cols[None, :]


def _collides(first: tuple[int, int], second: tuple[int, int], itemsize: int) -> bool:
    """Could two elements of a strided tile overlap? True also when it is not plain that they do not."""
    (near, n_near), (far, n_far) = sorted([(abs(first[0]), first[1]), (abs(second[0]), second[1])])
    if n_near == 1:
        return n_far > 1 and far < itemsize
    if n_far == 1:
        return near < itemsize
    return near < itemsize or far < near * n_near


def _gather(
    starts: np.ndarray, length: int, place: tuple[Any, Any], dtype: np.dtype, *, flipped: bool, storing: bool
) -> Tile | None:
    low, high = int(starts.min()), int(starts.max())
    index, rest = np.divmod(starts - low, dtype.itemsize)
    if rest.any() or (storing and bool((np.diff(np.sort(index)) < length).any())):
        return None
    windows = window(low, ((high - low) // dtype.itemsize + 1, length), (dtype.itemsize, dtype.itemsize), dtype)
    return Tile(windows, place, index, flipped)


def install(target: Any, get_np_dtype: Any, foreign: frozenset[np.dtype]) -> None:
    """Give the interpreter module `target` outer sums, thin operands and tile copies."""
    builder, handle, native = target.InterpreterBuilder, target.TensorHandle, target._interpreter
    unsigned = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}
    stock_binary = builder.binary_op

    class Outer(handle):  # type: ignore[misc, valid-type]
        """A 2-D tile op(left [M, 1], right [1, N]) that is spelled out when its data is asked for."""

        def __init__(self, op: Any, left: np.ndarray, right: np.ndarray, dtype: Any) -> None:
            self.op, self.left, self.right, self.dtype, self.attr = op, left, right, dtype, {}
            self._data: np.ndarray | None = None

        @property
        def data(self) -> np.ndarray:
            if self._data is None:
                self._data = self.op(self.left, self.right)
            return self._data  # type: ignore[return-value]

        @data.setter
        def data(self, value: np.ndarray) -> None:
            raise AttributeError("an outer tile is not written to")

        @property
        def shape(self) -> tuple[int, int]:
            return self.left.shape[0], self.right.shape[1]

    def parts(x: Any, op: Any, neutral: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """x as (left [M or 1, 1], right [1, N or 1]) under `op`; None when it has no such form or is not 2-D."""
        if isinstance(x, Outer):
            return (x.left, x.right) if x.op is op else None
        if x.data.ndim != 2:
            return None
        data = thin(x.data)
        if data.shape[1] == 1:
            return data, np.full((1, 1), neutral, dtype=data.dtype)
        return (np.full((1, 1), neutral, dtype=data.dtype), data) if data.shape[0] == 1 else None

    def shape_of(x: Any) -> tuple[int, ...]:
        return x.shape if isinstance(x, Outer) else x.data.shape

    def element_of(x: Any) -> np.dtype:
        return x.left.dtype if isinstance(x, Outer) else x.data.dtype

    def outer(op: Any, a: Any, b: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """op of two pairs of parts, as an Outer when it is wide both ways, as a broadcast array otherwise."""
        left, right = op(a[0], b[0]), op(a[1], b[1])
        if left.shape[0] == shape[0] and right.shape[1] == shape[1]:
            return Outer(op, left, right, dtype)
        return handle(np.broadcast_to(op(left, right), shape), dtype)

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        shape = shape_of(lhs)
        if len(shape) == 2 and shape == shape_of(rhs) and shape[0] > 1 and shape[1] > 1:
            kind = element_of(lhs)  # of the array: the interpreter gives a comparison the type of its operands
            if (op is np.add and kind.kind in "iu") or (op is np.bitwise_and and kind.kind == "b"):
                a, b = (parts(x, op, op is np.bitwise_and) for x in (lhs, rhs))
                if a is not None and b is not None and kind == element_of(rhs):
                    return outer(op, a, b, shape, lhs.dtype.scalar)
        left, right = thin(lhs.data), thin(rhs.data)
        result = stock_binary(self, handle(left, lhs.dtype), handle(right, rhs.dtype), op)
        full = lhs.data.shape
        if result.data.shape != full and full == rhs.data.shape:
            result.data = np.broadcast_to(result.data, full)
        return result

    def create_splat(self: Any, ret_ty: Any, arg: Any) -> Any:
        value = np.asarray(arg.data).reshape(-1)[:1].astype(get_np_dtype(arg.dtype), copy=False)
        shape = tuple([int(extent) for extent in ret_ty.shape])
        return handle(widen(value.reshape((1,) * len(shape)), shape), arg.dtype.scalar)

    def create_addptr(self: Any, ptr: Any, offset: Any) -> Any:
        width = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        shape = shape_of(ptr)
        if len(shape) == 2 and shape == shape_of(offset) and shape[0] > 1 and shape[1] > 1:
            a, b = parts(ptr, np.add, 0), parts(offset, np.add, 0)
            if a is not None and b is not None:
                scaled = tuple(width * part.astype(np.int64).view(np.uint64) for part in b)
                return outer(np.add, a, scaled, shape, ptr.dtype)
        base, steps = thin(ptr.data), thin(offset.data)
        data = base + (steps.astype(np.int64) * width).view(np.uint64)
        full = np.broadcast_shapes(ptr.data.shape, offset.data.shape)
        return handle(data if data.shape == full else np.broadcast_to(data, full), ptr.dtype)

    def tile(ptrs: Any, mask: Any, raw: np.dtype, storing: bool) -> Tile | None:
        if not isinstance(ptrs, Outer):
            return None
        ok = parts(mask, np.bitwise_and, True)
        if ok is None:
            return None
        row_ok = np.broadcast_to(ok[0][:, 0], ptrs.shape[:1])
        col_ok = np.broadcast_to(ok[1][0], ptrs.shape[1:])
        return tile_of(ptrs.left[:, 0], ptrs.right[0], row_ok, col_ok, raw, storing=storing)

    def raw_of(np_dtype: np.dtype) -> np.dtype:
        return unsigned[np_dtype.itemsize] if np_dtype in foreign else np_dtype  # C++ knows no foreign dtype

    def create_masked_load(self: Any, ptrs: Any, mask: Any, other: Any, *policy: Any) -> Any:
        element = ptrs.get_element_ty()
        np_dtype = get_np_dtype(element)
        raw = raw_of(np_dtype)
        region = tile(ptrs, mask, raw, False)
        if region is not None:
            fill = 0 if other is None else thin(other.data).view(raw)
            out = np.empty(ptrs.shape, dtype=raw)
            if region.view.shape != ptrs.shape or region.pick is not None:
                out[...] = fill
            out[region.place] = region.read()
        else:
            fill = np.zeros(ptrs.data.shape, dtype=raw) if other is None else other.data.view(raw)
            out = native.load(ptrs.data, mask.data, fill, raw)
        return handle(out.view(np_dtype), element)

    def create_masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *policy: Any) -> Any:
        data = value.data
        data = data.view(unsigned[data.itemsize]) if data.dtype in foreign else data
        # A value of another type than the memory's goes the stock way.
        if data.dtype == raw_of(get_np_dtype(ptrs.get_element_ty())):
            region = tile(ptrs, mask, data.dtype, True)
            if region is not None:
                return region.write(data[region.place])
        return native.store(ptrs.data, data, mask.data)

    def all_valid(ptrs: Any) -> Any:
        shape = shape_of(ptrs)
        return handle(widen(np.ones((1,) * len(shape), dtype=bool), shape), target.tl.int1)

    def create_load(self: Any, ptr: Any, *policy: Any) -> Any:
        return self.create_masked_load(ptr, all_valid(ptr), None)

    def create_store(self: Any, ptr: Any, value: Any, *policy: Any) -> Any:
        return self.create_masked_store(ptr, value, all_valid(ptr))

    for replacement in (
        binary_op, create_splat, create_addptr, create_masked_load, create_masked_store, create_load, create_store,
    ):  # fmt: skip
        setattr(builder, replacement.__name__, replacement)
