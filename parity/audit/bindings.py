"""Does every operation read the checkpoint tensor that belongs to it, once? By content; no loader is believed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from parity.audit.recognize import E4M3, ORDER, SCALES, describe_content, holds
from parity.audit.record import AuditCheck, AuditFinding
from parity.audit.tensors import BindingReport, Piece, StoredTensor
from parity.fingerprint import causes
from parity.invariance.record import Outcome
from parity.records import site_name

Place = tuple[int | None, str]

UNREAD = "weight never read"
TWICE = "weight read more than once a step"
FOREIGN = "weight of no checkpoint tensor"


@dataclass(frozen=True)
class _Wrong:
    """One tensor at one place; what is alike becomes one finding."""

    check: str
    name: str
    cause: str
    tensor: str
    place: str
    layer: int | None
    found: str


def judge_bindings(
    stored: Sequence[StoredTensor], report: BindingReport
) -> tuple[tuple[AuditCheck, ...], tuple[AuditFinding, ...]]:
    """Match what the engine's operations read against the checkpoint's tensors.

    A weight is right when the operation it belongs to reads its values: bit for bit as stored (codes in E4M3 then need
    their scales beside them), dequantized, or rounded once to bf16. Scales are consumed when they are read as such, or
    when their weight is read dequantized. Returns the checks `tensors` and `scales`, and one finding for each kind of
    difference.
    """
    if not report.pieces:
        why = "The engine showed no weight."
        return tuple(AuditCheck(name, Outcome.NOT_RUN, why) for name in ("tensors", "scales")), ()
    pieces = _by_place(report.pieces)
    wrong: list[_Wrong] = []
    scales = {tensor.scales: tensor for tensor in stored if tensor.scales is not None}
    weights = [tensor for tensor in stored if tensor.scales is None]
    for weight in weights:
        wrong += _judge_weight(weight, scales.get(weight.name), pieces, stored, report)
    wrong += _foreign(report.pieces, stored)
    findings = _grouped(wrong, report.bound)
    told = {
        "tensors": (len(weights), f"{len(weights)} weights at {sum(len(w.places) for w in weights)} operations"),
        "scales": (len(scales), f"scales of {len(scales)} weights"),
    }
    checks = []
    for name, (count, what) in told.items():
        found = sum(finding.check == name for finding in findings)
        if not count:
            checks.append(AuditCheck(name, Outcome.NOT_RUN, f"The checkpoint has no {name}."))
            continue
        outcome = Outcome.BROKEN if found else Outcome.HELD
        checks.append(AuditCheck(name, outcome, f"{what}, {found} kinds of difference" + _basis(report), count))
    return tuple(checks), findings


def suspect_rewritten(stored: Sequence[StoredTensor], report: BindingReport) -> tuple[AuditFinding, ...]:
    """What kernels read in place of what their operation was handed, by kind: no difference of config or checkpoint,
    and for a replay of the stage to clear."""
    home = {(place, tensor.expert, tensor.kind): tensor for tensor in stored for place in tensor.places}
    seen = []
    for piece in report.rewritten:
        tensor = home.get(((piece.layer, piece.stage), piece.expert, piece.kind))
        if tensor is None or holds(piece.probe, tensor) is not None:
            continue
        name, cause, text = describe_content(piece.probe, tensor, stored)
        place = site_name(piece.layer, piece.stage)
        check = "scales" if tensor.scales else "tensors"
        seen.append(_Wrong(check, name, cause, tensor.name, place, piece.layer, f"inside the operation, {text}"))
    return _grouped(seen, None)


def _judge_weight(
    weight: StoredTensor,
    scale: StoredTensor | None,
    pieces: Mapping[object, list[Piece]],
    stored: Sequence[StoredTensor],
    report: BindingReport,
) -> Iterable[_Wrong]:
    held_places: Sequence[Place] = weight.places
    named = pieces.get(weight.name)
    if named:  # an engine that only shows what it holds, under the checkpoint's names
        held_places = weight.places[:1]
    for layer, stage in held_places:
        place = site_name(layer, stage) + ("" if weight.expert is None else f" expert {weight.expert}")
        key = (layer, stage, weight.expert)
        found = named or pieces.get((*key, "weight"), [])
        beside = (pieces.get(scale.name) if named else pieces.get((*key, "scale"))) if scale is not None else None
        if not found:
            where = _elsewhere(weight, report.pieces)
            yield _Wrong("tensors", UNREAD, causes.TENSOR_UNBOUND, weight.name, place, layer, where)
            continue
        for piece in found:
            form = holds(piece.probe, weight)
            moved = None
            if form is None:
                name, cause, text = describe_content(piece.probe, weight, stored)
                moved = cause if name == ORDER else None
                yield _Wrong("tensors", name, cause, weight.name, place, layer, text)
            if scale is not None and (form == "codes" or piece.probe.dtype == E4M3):
                for one in _judge_scale(scale, beside or (), piece, place, layer, stored):
                    # Scales that stand in another order beside such a weight went with it.
                    yield replace(one, cause=moved) if moved and one.name == ORDER else one
            if piece.reads is not None and report.steps and piece.reads > report.steps:
                text = f"{piece.reads} times in {report.steps} steps"
                yield _Wrong("tensors", TWICE, causes.CONFIG_VALUE, weight.name, place, layer, text)


def _judge_scale(
    scale: StoredTensor,
    beside: Sequence[Piece],
    weight: Piece,
    place: str,
    layer: int | None,
    stored: Sequence[StoredTensor],
) -> Iterable[_Wrong]:
    if not beside:
        how = "as codes without scales" if weight.probe.dtype != E4M3 else "with no scales beside it"
        yield _Wrong("scales", SCALES, causes.SCALES_UNUSED, scale.name, place, layer, f"its weight is read {how}")
        return
    for piece in beside:
        if holds(piece.probe, scale) is None:
            name, cause, text = describe_content(piece.probe, scale, stored)
            yield _Wrong("scales", name, cause, scale.name, place, layer, text)


def _foreign(pieces: Sequence[Piece], stored: Sequence[StoredTensor]) -> Iterable[_Wrong]:
    """Weights read where the checkpoint has none: a bias, a norm, a layer that it does not hold."""
    known = {(place, tensor.expert, tensor.kind) for tensor in stored for place in tensor.places}
    # A weight dequantized at loading has no scales in the engine; scales beside a plain weight are foreign.
    names = {tensor.name for tensor in stored}
    for piece in pieces:
        if piece.claims is not None:
            at_home = piece.claims in names
        else:
            at_home = ((piece.layer, piece.stage), piece.expert, piece.kind) in known
        if not at_home:
            place = piece.claims or site_name(piece.layer, piece.stage)
            text = f"a {piece.kind} of shape {list(piece.probe.shape)}"
            yield _Wrong("tensors", FOREIGN, causes.TENSOR_UNBOUND, "", place, piece.layer, text)


def _elsewhere(weight: StoredTensor, pieces: Sequence[Piece]) -> str:
    at = [site_name(piece.layer, piece.stage) for piece in pieces if holds(piece.probe, weight)]
    return f"no operation reads it here; it is read at {at[0]}" if at else "no operation reads it"


def _by_place(pieces: Sequence[Piece]) -> dict[object, list[Piece]]:
    found: dict[object, list[Piece]] = defaultdict(list)
    for piece in pieces:
        found[piece.claims or (piece.layer, piece.stage, piece.expert, piece.kind)].append(piece)
    return found


def _grouped(wrong: Sequence[_Wrong], bound: frozenset[str] | None) -> tuple[AuditFinding, ...]:
    """One finding for what differs in the same way."""
    kinds: dict[tuple[str, str, str], list[_Wrong]] = defaultdict(list)
    for one in wrong:
        kinds[one.check, one.name, one.cause].append(one)
    findings = []
    for (check, name, cause), alike in kinds.items():
        first = alike[0]
        tensors = tuple(dict.fromkeys(one.tensor for one in alike if one.tensor))
        claimed = sorted(set(tensors) & (bound or frozenset()))
        subject = first.tensor or first.place
        sentence = f"{name}: {subject} at {first.place}: {first.found}"
        sentence += f" (and {len(alike) - 1} more)." if len(alike) > 1 else "."
        if claimed:
            sentence += f" The loader counts {len(claimed)} of {len(tensors)} as bound."
        findings.append(
            AuditFinding(
                check, name, cause, "the checkpoint's own, read once a step", first.found, sentence,
                places=tuple(dict.fromkeys(one.place for one in alike)),
                layers=tuple(sorted({one.layer for one in alike if one.layer is not None})),
                tensors=tensors,
                evidence={"tensors": len(tensors), "operations": len(alike), "loader_says_bound": len(claimed),
                          "found": tuple(dict.fromkeys(one.found for one in alike))[:8]},
            )
        )  # fmt: skip
    return tuple(findings)


def _basis(report: BindingReport) -> str:
    ways = {piece.by for piece in report.pieces}
    if ways == {"held"}:
        return "; which operation reads them, and whether any does, is not shown"
    calls = sum(piece.by == "call" for piece in report.pieces)
    return f"; {calls} of {len(report.pieces)} judged by what their operation was handed" if calls else ""
