"""Do two sets of stored tensors agree, name by name? Plain .safetensors files, and either kind of path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from parity.compare.beside import beside_larger
from parity.compare.exact import count_differences, same_bytes
from parity.compare.narrow import narrowed
from parity.compare.stream import Streamed, stream_pair
from parity.compare.tensorfile import StoredTensor, natural_order, read_tensors
from parity.compare.traces import compare_traces
from parity.errors import UsageError
from parity.floor import DerivedFloor, Floor, NoiseFloor, derive_floor
from parity.floor.derived import PREFIX
from parity.metrics import READABLE
from parity.records import Comparison, SliceResult, Summary, Verdict
from parity.trace import open_trace
from parity.trace.journal import MANIFEST

Progress = Callable[[str, int], None]
"""Told the name of the tensor in work and how many bytes of it, both sides together, were read."""

_INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.int64)
MODE = "values"


def compare_files(
    *, oracle: str | Path, sut: str | Path, floor: DerivedFloor | None = None, progress: Progress | None = None
) -> Summary:
    """Compare two .safetensors files, or folders of them, by tensor name, in natural order of names.

    Leading dims are rows, the last dim is the columns; slices are rows, blocks of 128 columns and the whole tensor.
    Order: presence -> shape -> dtype -> empty -> nonfinite -> bits -> bound. Nothing broadcasts. Floating dtypes that
    differ are compared by value; integers exactly, whatever their width; bool and float8_e8m0fnu (a scale's exponent)
    with their own kind only; complex64 as real and imaginary parts; packed formats are equal in every byte, or
    NOT_COMPARED.
    floor: None measures without a verdict. Memory: pieces of some MB besides the mapped files.
    Returns one comparison for every name of either side. Raises UsageError for files that cannot be read.
    """
    return compare_stored(
        oracle=read_tensors(Path(oracle)), sut=read_tensors(Path(sut)), floor=lambda _: floor, progress=progress
    )


def compare_stored(
    *,
    oracle: Mapping[str, StoredTensor],
    sut: Mapping[str, StoredTensor],
    floor: Callable[[StoredTensor], DerivedFloor | None],
    progress: Progress | None = None,
) -> Summary:
    """The same of tensors that are at hand. floor: asked for each of the oracle's tensors that both sides have."""
    names = sorted({*oracle, *sut}, key=natural_order)
    records = []
    for name in names:
        if name not in oracle or name not in sut:
            records.append(_missing(name, in_oracle=name in oracle))
            continue

        def advance(size: int, name: str = name) -> None:
            if progress is not None:
                progress(name, size)

        advance(0)
        records.append(_compare_stored(oracle[name], sut[name], floor(oracle[name]), advance))
    return Summary(tuple(names), tuple(records))


def compare_paths(
    *,
    oracle: str | Path,
    sut: str | Path,
    floor: str | Path | NoiseFloor | None = None,
    same_model_because: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Compare two traces, or two files or folders of .safetensors.

    floor: as `open_floor` takes it. same_model_because: traces of checkpoints without a common root only with a reason.
    Raises UsageError for one trace and one that is none, and for a calibrated floor on plain files: it belongs to a
    recipe and its stages, of which a plain file says nothing.
    """
    kinds = [is_trace(path) for path in (oracle, sut)]
    opened = open_floor(floor)
    if all(kinds):
        told = None if progress is None else lambda name: progress(name, 0)
        return compare_traces(
            oracle=open_trace(oracle),
            sut=open_trace(sut),
            floor=opened,
            same_model_because=same_model_because,
            progress=told,
        )
    if any(kinds):
        raise UsageError(
            place=f"{oracle} and {sut}",
            expected="two traces, or two files or folders of .safetensors",
            found=f"only {oracle if kinds[0] else sut} is a trace",
            next_step="Capture the other side as a trace too, or compare plain files of both.",
        )
    if isinstance(opened, Floor):
        raise UsageError(
            place=f"floor {floor if isinstance(floor, (str, Path)) else opened.recipe.name}",
            expected="a derived floor for plain files, which name neither recipe nor stages",
            found=f"a floor calibrated for recipe {opened.recipe.name}",
            next_step="Use --floor derived:DTYPE, or capture both sides as traces.",
        )
    return compare_files(oracle=oracle, sut=sut, floor=opened, progress=progress)


def open_floor(floor: str | Path | NoiseFloor | None) -> NoiseFloor | None:
    """A floor from its name: `derived:DTYPE[:ROUNDINGS]`, or the path of a calibrated one."""
    if isinstance(floor, str) and floor.startswith(PREFIX):
        return derive_floor(floor)
    return Floor.load(Path(floor)) if isinstance(floor, (str, Path)) else floor


def is_trace(path: str | Path) -> bool:
    """True for a folder with a manifest."""
    return (Path(path) / MANIFEST).is_file()


def bytes_of(path: str | Path) -> int:
    """Size of the .safetensors files at a path, 0 for none: what a progress bar counts to."""
    place = Path(path)
    return sum(f.stat().st_size for f in ([place] if place.is_file() else place.glob("*.safetensors")) if f.exists())


def _compare_stored(
    a: StoredTensor, b: StoredTensor, floor: DerivedFloor | None, advance: Callable[[int], None]
) -> Comparison:
    if a.shape != b.shape:
        return _record(a, Verdict.SHAPE_MISMATCH, f"oracle {list(a.shape)}, sut {list(b.shape)}; nothing broadcasts")
    dtypes = f"oracle {a.dtype}, sut {b.dtype}"
    kinds = [_kind(t.known) for t in (a, b)]
    if "packed" in kinds:
        if same_bytes(a, b) and len(a.raw):
            return _record(a, Verdict.MATCH, "", 0.0 if floor else None)
        if a.dtype == b.dtype:
            reason = f"{a.dtype} is packed or unknown here, and the bytes differ: unpack or dequantize it first"
            return _record(a, Verdict.NOT_COMPARED, reason if len(a.raw) else "empty")
    if kinds[0] != kinds[1]:
        return _record(a, Verdict.DTYPE_MISMATCH, f"dtypes of different kinds: {dtypes}")
    if not a.matrix[0] * a.matrix[1]:
        return _record(a, Verdict.NOT_COMPARED, f"empty: shape {list(a.shape)}")
    if kinds[0] != "float" and kinds[0] != "complex":
        record = _compare_exactly(a, b, floor)
        advance(len(a.raw) + len(b.raw))
        return record
    streamed = stream_pair(a, b, floor, advance)
    note = "" if a.dtype == b.dtype else f"compared by value: {dtypes}"
    stored = [floor is not None and t.known == getattr(torch, floor.model.dtype) for t in (a, b)]
    rounded = stored[0] != stored[1]
    if floor is not None and rounded:
        note += f", as rounded to {floor.model.dtype}"
    if floor is not None and not any(stored):
        note = "; ".join(filter(None, (note, f"stored as {a.dtype}, judged as rounded to {floor.model.dtype}")))
    # Equal once rounded is not yet equal bit for bit: a second look, at the values as they are stored.
    same = not streamed.total.differ and not (rounded and stream_pair(a, b, None).total.differ)
    return _judge(a, b, streamed, floor, note, same=same)


def _kind(dtype: torch.dtype | None) -> str:
    if dtype is None:
        return "packed"
    if dtype in READABLE:
        return "float"
    return "complex" if dtype == torch.complex64 else "integer" if dtype in _INTEGERS else str(dtype)


def _compare_exactly(a: StoredTensor, b: StoredTensor, floor: DerivedFloor | None) -> Comparison:
    found = count_differences(a, b)
    whole = {"differ": float(found.count), "elements": float(found.elements)}
    if found.first is None:
        return _record(a, Verdict.MATCH, "", 0.0 if floor else None, whole=whole)
    at = divmod(found.first, a.matrix[1])
    reason = f"{found.count} of {found.elements} exact values differ, first at row {at[0]}, column {at[1]}"
    first = SliceResult("element", found.first, f"row {at[0]}, column {at[1]}", whole, None, "differ")
    if floor is None:
        return _record(a, Verdict.NO_FLOOR, f"measured only, no floor was given: {reason}", whole=whole, worst=(first,))
    # No rounding explains a difference of integers: whatever the floor, it is infinitely over it.
    return _record(a, Verdict.EXCEEDS_FLOOR, reason, float("inf"), whole=whole, worst=(first,))


def _judge(
    tensor: StoredTensor,
    other: StoredTensor,
    streamed: Streamed,
    floor: DerivedFloor | None,
    note: str,
    *,
    same: bool,
) -> Comparison:
    """same: whether the values are equal as they are stored."""
    worst, whole = streamed.finish(floor)
    over = max((s.over_floor for s in worst if s.over_floor is not None), default=None)

    def record(verdict: Verdict, reason: str, score: float | None = None) -> Comparison:
        told = "; ".join(text for text in (reason, note) if text)
        return _record(tensor, verdict, told, score, whole=whole, worst=worst)

    if streamed.by_side:
        parts = [
            f"{count} NaN or infinite elements in {rows} rows of the {side}, first in {streamed.row_words(first)}"
            for side, (count, rows, first) in streamed.by_side.items()
        ]
        return record(Verdict.NONFINITE, "; ".join(parts))
    if same:
        return record(Verdict.MATCH, "", None if floor is None else 0.0)
    if floor is None:
        return record(Verdict.NO_FLOOR, "measured only: no floor was given")
    if over is not None and over > 1:
        reason = f"{worst[0].by} of {worst[0].where} is {over:.3g} times its bound"
        return record(Verdict.EXCEEDS_FLOOR, reason, over)
    unclear = _unclear(tensor, other, streamed, floor, whole["scale_seen"])
    if unclear:
        return record(Verdict.NO_POWER, unclear, over)
    return record(Verdict.WITHIN_FLOOR, "", over or 0.0)


def _unclear(
    oracle: StoredTensor, sut: StoredTensor, streamed: Streamed, floor: DerivedFloor, scale_seen: float
) -> str:
    """Why a pair within its bound is not cleared by it; empty where it is."""
    if streamed.total.dd > 0 and scale_seen >= 1:
        return "the bound of these values would let a tensor of zeros pass"
    if floor.by_own_size and streamed.own[0] > 1:
        return beside_larger(*streamed.own, streamed.own_columns[1], streamed.own_rows)
    if streamed.lost:
        return f"{streamed.lost} of {streamed.rows} rows differ and are so small that the bound would let zeros pass"
    came_from = [narrowed(tensor, floor.model.dtype) for tensor in (oracle, sut)]
    if came_from[0] != came_from[1]:
        told = "; ".join(
            f"every value of the {side} is one of {name}"
            for side, name in zip(("oracle", "SUT"), came_from, strict=True)
            if name is not None
        )
        return f"{told}: it was rounded on the way, which the allowance for accumulation in {floor.label} covers"
    return ""


def _missing(name: str, *, in_oracle: bool) -> Comparison:
    verdict = Verdict.MISSING_IN_SUT if in_oracle else Verdict.MISSING_IN_ORACLE
    reason = f"only the {'oracle' if in_oracle else 'SUT'} has a tensor of this name"
    return Comparison(name, None, name, "", verdict, reason=reason, mode=MODE)


def _record(
    tensor: StoredTensor,
    verdict: Verdict,
    reason: str,
    over: float | None = None,
    *,
    whole: dict[str, float] | None = None,
    worst: tuple[SliceResult, ...] = (),
) -> Comparison:
    return Comparison(
        name=tensor.name,
        layer=None,
        stage=tensor.name,
        phase="",
        verdict=verdict,
        whole=whole or {},
        worst=worst,
        over_floor=over,
        rows=tensor.matrix[0],
        reason=reason,
        mode=MODE,
    )
