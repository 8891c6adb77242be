"""What do the numbers of an investigation say in words? Thresholds passed, experts shared, grafts, slices, launches."""

from __future__ import annotations

from collections.abc import Sequence

from parity.invariance import Coverage
from parity.ladder import Proof
from parity.records import Comparison, Summary
from parity.report.text import times


def gate_passed(cosine: float) -> str:
    """Which of the fixed whole-tensor thresholds in use elsewhere would let this pass, in words."""
    passed = next((gate for gate in (0.999, 0.99, 0.98, 0.95, 0.9) if cosine >= gate), None)
    return f"a fixed gate of cosine >= {passed} passes it" if passed else "no usual threshold would pass it"


def expert_overlap(chained: Summary) -> str:
    """Experts that each layer's tokens share with the oracle's own choice, mean of k; empty without a router."""
    records = [record for record in chained.comparisons if "overlap" in record.whole]
    return ", ".join(f"{record.whole['overlap']:.2f} of {record.whole['top_k']:.0f}" for record in records)


def proof_lines(proof: Proof) -> list[str]:
    """What each of the three grafts did, a line each."""
    confirmed = [score for name, score in proof.added.items() if name not in proof.unconfirmed and score is not None]
    lowest = min(confirmed, default=float("nan"))
    hidden, cleared = ", ".join(proof.unmasked), len(proof.cleared) - len(proof.left)
    lines = [
        f"sham: the SUT's own tensors at {', '.join(proof.sites)} change {proof.sham_changed} of its logits"
        + ("" if proof.repeats else " (memory pinned: the SUT does not repeat itself)"),
        f"inputs: with the oracle's tensors there, each site still adds error, at least {times(lowest)} times its gate"
        if proof.stays
        else "inputs: with the oracle's tensors there, not every site adds error: "
        + ", ".join(
            f"{name} {'not judged' if score is None else f'{score:.2g}'}" for name, score in proof.added.items()
        ),
        f"output: with the replayed tensors there, {cleared} of {len(proof.cleared)} sites "
        f"that exceeded their floor no longer do; {proof.effect.line()}"
        if proof.silent is None
        else f"output: no chained floor sees it; with the replayed tensors there, {proof.silent.reversal.line()}; "
        + proof.effect.line(),
    ]
    if proof.unconfirmed:
        lines.append(f"not confirmed: {', '.join(proof.unconfirmed)} add nothing on the oracle's inputs")
    if hidden:
        lines.append(f"unmasked: {hidden} add error of their own once the others are mended, and are mended with them")
    if proof.text_before and proof.text_after:
        lines.append(
            f"text: {proof.text_before[0]} of {proof.text_before[1]} tokens as the oracle's before, "
            f"{proof.text_after[0]} after"
        )
    return lines


def worst_slice(record: Comparison) -> str:
    """The worst slice of a comparison in words."""
    if not record.worst:
        return record.reason
    first = record.worst[0]
    return f"{first.where}: {first.by or 'rel_l2'} {first.metrics.get(first.by or 'rel_l2', float('nan')):.3g}"


def launches_over(coverage: Sequence[Coverage]) -> list[Coverage]:
    """Launches that fall short, one a layer (the first)."""
    first: dict[int | None, Coverage] = {}
    for launch in coverage:
        if launch.truncated:
            first.setdefault(launch.layer, launch)
    return list(first.values())
