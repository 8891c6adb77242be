"""What was seen, where error arises, and what proves it? The sections of a report that tell of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parity.climb import Investigation
from parity.ladder import Proof
from parity.reading import read_record
from parity.records import Comparison, Finding, Summary, site_name
from parity.report.text import spans, times
from parity.report.words import expert_overlap, gate_passed, proof_lines, worst_slice

MOST_SITES = 24
Rows = tuple[tuple[Any, ...], ...]


def tell_symptom(found: Investigation) -> str:
    result = found.rung(2)
    if result is None:
        return "Decoding was not compared yet."
    return result.sentence if result.ran else f"Decoding was not compared: {result.sentence}"


def tell_texts(found: Investigation) -> Rows:
    result = found.rung(2)
    if result is None or not result.evidence.get("tokens"):
        return ()
    texts, tokens = result.evidence.get("texts") or {}, result.evidence["tokens"]
    scores = result.evidence.get("text_scores") or {}
    rows = []
    for who, side in (("oracle", "oracle"), ("engine under test", "sut")):
        ids = tokens.get(side) or ()
        loop = (scores.get(side) or {}).get("first_degeneration")
        rows.append((who, texts.get(side) or " ".join(map(str, ids)), len(ids), "no" if loop is None else f"at {loop}"))
    return tuple(rows)


def tell_tensors(chained: Summary | None, finding: Finding) -> Iterator[str]:
    """What a whole-tensor comparison would have said of the residual stream."""
    if chained is None:
        return
    residuals = [r for r in chained.comparisons if r.stage == "resid.out" and "cosine" in r.whole]
    if residuals:
        at = next((r for r in residuals if finding.layers and r.layer == finding.layers[0]), residuals[-1])
        cosine = at.whole["cosine"]
        passed = gate_passed(cosine)
        said = f"As one tensor, the residual leaving layer {at.layer} has cosine {cosine:.4f} with the oracle's"
        yield f"{said}: {passed}."
        yield "By layer: " + ", ".join(f"{record.whole['cosine']:.4f}" for record in residuals) + "."
    if overlap := expert_overlap(chained):
        yield f"Experts in common with the oracle's own choice, by layer: {overlap}."


def tell_finding(finding: Finding) -> Iterator[tuple[str, Any]]:
    yield "verdict", finding.verdict
    yield "decided by", finding.rung
    if finding.verdict in ("fault", "refused") or finding.stage:
        yield "layers", ", ".join(map(str, finding.layers)) or "none"
        yield "stage", finding.stage or "none"
        for axis in ("heads", "experts", "rows", "columns", "positions"):
            numbers = getattr(finding.slice, axis)
            if numbers is not None:
                yield axis, _axis(axis, numbers)
        yield "cause", finding.cause or "unknown: of a shape that no detector knows"
    if finding.over_floor is not None:
        yield "worst slice over its floor", f"{times(finding.over_floor)} times the gate"
    if "repetition" in finding.evidence:
        yield "on an independent prompt", finding.evidence["repetition"]
    for row in finding.evidence.get("by_layer") or ():
        if isinstance(row, Mapping):
            yield f"layer {row.get('layer')}", row.get("sentence")
    for sentence in finding.evidence.get("confirmed_by") or ():
        yield "confirmed by", sentence
    for sentence in finding.evidence.get("open") or ():
        yield "not judged", sentence
    if finding.alternatives:
        yield "alternatives not refuted", "; ".join(finding.alternatives)


def _axis(axis: str, numbers: tuple[int, ...]) -> str:
    if axis in ("columns", "positions"):
        return f"{numbers[0]} to {numbers[1] - 1}"
    return spans(numbers)


def tell_where(finding: Finding) -> str:
    names = [site_name(layer, finding.stage) for layer in finding.layers or (None,)] if finding.stage else []
    return ", ".join(names) or finding.rung


def tell_sites(chained: Summary | None, isolated: Summary | None) -> tuple[Rows, str]:
    """Where error is added, with what is shown there in the chained comparison."""
    if isolated is None:
        return (), "No stage was replayed alone: where error arises is not known."
    shown = {} if chained is None else {record.name: record for record in chained.comparisons}
    added = [record for record in isolated.comparisons if record.verdict.faulty]
    rows = tuple((r.name, _times(r), worst_slice(r), _times(shown.get(r.name))) for r in added[:MOST_SITES])
    total = len(isolated.comparisons)
    inherited = sum(record.verdict.faulty for record in shown.values())
    said = f"{len(added)} of {total} sites add error of their own"
    said += f"; {inherited} of {len(shown)} show error over their floor." if shown else "."
    return rows, said + (f" The first {MOST_SITES} are listed." if len(added) > MOST_SITES else "")


def _times(record: Comparison | None) -> str:
    if record is None:
        return "not compared"
    return record.verdict.value if record.over_floor is None else f"{record.over_floor:.2f}"


def tell_proof(found: Investigation, gone: Mapping[int, str]) -> tuple[str, tuple[str, ...]]:
    result, proof = found.rung(7), found.finding.proof
    said = str(proof.get("sentence") or "")
    if 7 in gone:
        return "not proved: the evidence was withdrawn", ()
    stored = None if result is None or not result.ran else result.evidence.get("proof")
    if stored is None:
        why = said or (result.sentence if result is not None else "the rung has not been reached")
        return ("proved" if proof.get("proved") else "not proved"), (why,)
    read = read_record(Proof, stored, place="rung 7, proof")
    return ("proved" if read.proved else "not proved"), (
        *proof_lines(read),
        *([said] if said and not read.proved else []),
    )
