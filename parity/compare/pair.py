"""Is one canonical tensor of the SUT the oracle's, within the floor? The core of every comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.align import Aligned, route
from parity.compare.judge import judge
from parity.compare.labels import RowLabels, label_rows
from parity.compare.measure import Measured, measure
from parity.compare.routes import judge_routes
from parity.errors import UsageError
from parity.floor import FloorSample, NoiseFloor
from parity.metrics import READABLE
from parity.records import Comparison, Verdict, site_name
from parity.stages import term

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def compare_pair(
    *,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    axes: tuple[str, ...],
    stage: str,
    layer: int | None,
    position: NDArray[np.integer] | None = None,
    phase: NDArray[np.str_] | str = "prefill",
    expert: NDArray[np.integer] | None = None,
    number: NDArray[np.integer] | None = None,
    aside: NDArray[np.bool_] | None = None,
    excluded: NDArray[np.bool_] | None = None,
    context: NDArray[np.uint64] | None = None,
    router_logits: torch.Tensor | None = None,
    request: str = "",
    floor: NoiseFloor | None = None,
    mode: str = "isolated",
) -> tuple[Comparison, ...]:
    """Compare one stage in canonical form; one record a phase that occurs, prefill first.

    oracle, sut: [T, ...], or [T, S, ...] for expert rows, slots in one order of experts on both sides. Nothing
        broadcasts: other shapes are SHAPE_MISMATCH, floats against integers DTYPE_MISMATCH, both as records.
    axes: canonical, `T` or `T S` first. position: [T], absolute; None means 0..T-1. phase: [T] or one for all.
    expert, number: [T, S], expert of each row and the row's number inside it in the SUT's launch.
    aside: [T], tokens routed otherwise by a near-tie. excluded: [T] or [T, S], rows without a counterpart.
    context: [T], equal for tokens that follow the same tokens (`parity.metrics.contexts`); None: none repeats.
    router_logits: [T, E], the oracle's, for `moe.topk_ids` only.
    mode: which bins of the floor apply; `isolated` when the oracle was fed the SUT's inputs.
    Raises UsageError for tensors that are sparse or hold no values, and for a position or phase of another length.
    """
    tokens = int(sut.shape[0]) if sut.ndim else 0
    name = site_name(layer, stage)
    for side, tensor in (("oracle", oracle), ("sut", sut)):
        _require_values(f"{side} of {name}", tensor)
    _require_length(f"position of {name}", position, tokens)
    _require_length(f"phase of {name}", None if isinstance(phase, str) else phase, tokens)
    at = np.arange(tokens) if position is None else np.asarray(position)
    mismatch = check_pair(oracle=oracle, sut=sut, axes=axes, stage=stage, layer=layer, mode=mode)
    if mismatch is not None:
        return (mismatch,)
    by_slot = axes[:2] == ("T", "S") and len(axes) > 2
    labels = label_rows(
        position=at,
        phase=phase,
        request=request,
        slots=int(sut.shape[1]) if by_slot else None,
        expert=expert if by_slot else None,
        number=number if by_slot else None,
        aside=aside,
        excluded=excluded,
        context=context,
    )
    if term(stage).values == "ids":
        logits = None if router_logits is None else router_logits.float().cpu().numpy()
        return tuple(_routes(oracle, sut, labels, logits, layer=layer, floor=floor, mode=mode))
    measured = measure([(oracle, sut, labels)], stage=stage, layer=layer, axes=axes, floor=floor)
    return tuple(judge(part, floor=floor, mode=mode) for part in measured)


def _require_values(place: str, tensor: torch.Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise UsageError(
            place=place,
            expected="a dense tensor with values",
            found=f"{str(tensor.layout).removeprefix('torch.')} on {tensor.device}",
            next_step="Load it, or call `.to_dense()`, first.",
        )


def _require_length(place: str, given: NDArray[Any] | None, tokens: int) -> None:
    if given is not None and len(given) != tokens:
        raise UsageError(
            place=place,
            expected=f"one for each of {tokens} tokens",
            found=str(len(given)),
            next_step="Give those of the tensor's own rows.",
        )


def compare_aligned(
    *,
    oracle: torch.Tensor,
    sut: Aligned,
    router_logits: torch.Tensor | None = None,
    floor: NoiseFloor | None = None,
    mode: str = "isolated",
) -> tuple[Comparison, ...]:
    """`compare_pair` of a tensor that the oracle computed from the SUT's own inputs, row for row of `sut`."""
    return compare_pair(
        oracle=oracle,
        sut=sut.tensor,
        axes=sut.axes,
        stage=sut.stage,
        layer=sut.layer,
        position=sut.position,
        phase=sut.phase,
        expert=sut.expert,
        number=sut.row_in_expert,
        context=sut.context,
        router_logits=router_logits,
        request=sut.request,
        floor=floor,
        mode=mode,
    )


def sample_aligned(into: FloorSample, *, oracle: torch.Tensor, clean: Aligned, mode: str = "isolated") -> None:
    """Take a clean run's stage into a floor's sample: `clean` of the emulation, `oracle` exact on the same inputs.

    Ids have no floor of their own and are passed over.
    """
    if term(clean.stage).values == "ids":
        return
    for measured in measure_aligned(oracle=oracle, sut=clean):
        measured.sample(into, mode=mode)


def measure_aligned(*, oracle: torch.Tensor, sut: Aligned) -> list[Measured]:
    """The numbers of `compare_aligned` without a verdict, for a closer look."""
    return measure_replayed([(oracle, sut)])


def measure_replayed(pairs: Sequence[tuple[torch.Tensor, Aligned]]) -> list[Measured]:
    """The numbers of one stage, phase by phase, requests together; pairs: (oracle, SUT), one a request."""
    parts = [(oracle, sut.tensor, label_aligned(sut)) for oracle, sut in pairs]
    first = pairs[0][1]
    return measure(parts, stage=first.stage, layer=first.layer, axes=first.axes)


def label_aligned(sut: Aligned) -> RowLabels:
    return label_rows(
        position=sut.position,
        phase=sut.phase,
        request=sut.request,
        slots=sut.slots,
        expert=sut.expert,
        number=sut.row_in_expert,
        context=sut.context,
    )


def check_pair(
    *,
    oracle: torch.Tensor,
    sut: torch.Tensor,
    axes: tuple[str, ...],
    stage: str,
    layer: int | None,
    mode: str,
    phase: str = "prefill",
) -> Comparison | None:
    """The record of a pair whose shapes or dtypes forbid measuring; None when it can be measured."""

    def record(verdict: Verdict, reason: str) -> Comparison:
        return Comparison(site_name(layer, stage), layer, stage, phase, verdict, reason=reason, mode=mode)

    shapes = f"oracle {list(oracle.shape)}, sut {list(sut.shape)}"
    if oracle.shape != sut.shape or sut.ndim != len(axes):
        return record(Verdict.SHAPE_MISMATCH, f"expected one shape over the axes {' '.join(axes)}; found {shapes}")
    dtypes = [str(t.dtype).removeprefix("torch.") for t in (oracle, sut)]
    found = f"oracle {dtypes[0]}, sut {dtypes[1]}"
    integers = [t.dtype in _INTEGERS for t in (oracle, sut)]
    if term(stage).values == "ids":
        return None if all(integers) else record(Verdict.DTYPE_MISMATCH, f"expected integer ids; found {found}")
    readable = [t.dtype in READABLE for t in (oracle, sut)]
    if all(readable):
        return None
    if any(readable):
        return record(Verdict.DTYPE_MISMATCH, f"expected floating-point values on both sides; found {found}")
    return record(Verdict.NOT_COMPARED, f"no element-wise floating-point dtype: {found}; unpack or dequantize first")


def _routes(
    oracle: torch.Tensor,
    sut: torch.Tensor,
    labels: RowLabels,
    logits: NDArray | None,
    *,
    layer: int | None,
    floor: NoiseFloor | None,
    mode: str,
) -> Iterator[Comparison]:
    a, b = oracle.cpu().numpy(), sut.cpu().numpy()
    phases = sorted(set(labels.phase.tolist()), key=("prefill", "decode").index) or ["prefill"]
    for phase in phases:
        here = labels.phase == phase
        routing = route(oracle_ids=a[here], sut_ids=b[here], router_logits=None if logits is None else logits[here])
        yield judge_routes(routing, labels[here], layer=layer, floor=floor, mode=mode)
