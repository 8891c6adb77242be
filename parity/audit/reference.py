"""Is a converted checkpoint's weight still the reference's, within what its format rounds? Judged tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parity.audit.record import AuditCheck, AuditFinding, WeightDistance
from parity.fingerprint import causes
from parity.invariance.record import Outcome

LENGTH = "weights of another magnitude"
OTHER = "values beyond the format's rounding"
LEFT_OUT = 2.0
"""A norm ratio from here on, or below its inverse, is that of scales that were left out: those that are powers of two
move a norm by 2 or more, and blocks that were scaled to fill E4M3 by hundreds. A ratio nearer to 1 is a factor."""


def judge_distances(
    distances: Sequence[WeightDistance], problems: Sequence[tuple[str, str]] = ()
) -> tuple[AuditCheck, tuple[AuditFinding, ...]]:
    """A weight is right when no element is further off than its format rounds (`excess` at most 1, derived).

    problems: (tensor, words) of those that could not be compared: missing, of another shape. Findings are one for
    each kind: another magnitude (scales left out, or a factor), or values that are others (of a tensor with scales,
    misplaced ones).
    """
    wrong = [one for one in distances if not one.excess <= 1]
    kinds: dict[tuple[str, str], list[WeightDistance]] = {}
    for one in wrong:
        kinds.setdefault(_kind(one), []).append(one)
    findings = [_finding(*kind, alike) for kind, alike in kinds.items()]
    if problems:
        text = "; ".join(f"{tensor}: {words}" for tensor, words in problems[:3])
        findings.append(
            AuditFinding(
                "reference", "tensors that cannot be compared", causes.TENSOR_UNBOUND,
                "the same tensors in the same shapes", text, f"{len(problems)} tensors cannot be compared: {text}.",
                tensors=tuple(tensor for tensor, _ in problems),
            )
        )  # fmt: skip
    if findings:
        return AuditCheck(
            "reference", Outcome.BROKEN, f"{len(wrong)} of {len(distances)} weights are off", len(distances)
        ), tuple(findings)
    if not distances:
        return AuditCheck("reference", Outcome.NOT_RUN, "The reference shares no weight."), ()
    worst = max(distances, key=lambda one: one.excess)
    least = min(one.cosine for one in distances)
    said = f"{len(distances)} weights; lowest cosine {least:.6f}, largest error {worst.excess:.3f} of what is allowed"
    return AuditCheck("reference", Outcome.HELD, said, len(distances)), ()


def _kind(one: WeightDistance) -> tuple[str, str]:
    """What is wrong with a weight, and its cause class."""
    if not _is_longer(one):
        return OTHER, causes.BLOCK_SCALES if one.scaled else causes.TENSOR_UNBOUND
    left_out = one.scaled and not 1 / LEFT_OUT < one.norm_ratio < LEFT_OUT
    return LENGTH, causes.SCALES_UNUSED if left_out else causes.CONSTANT_RATIO


def _is_longer(one: WeightDistance) -> bool:
    """Most of the distance is the length's: by the triangle inequality |norm_ratio - 1| is at most rel_l2, and for a
    factor alone it equals it. False for what is not finite."""
    return math.isfinite(one.norm_ratio) and abs(one.norm_ratio - 1) > one.rel_l2 / 2


def _finding(name: str, cause: str, alike: Sequence[WeightDistance]) -> AuditFinding:
    worst = max(alike, key=lambda one: one.excess if math.isfinite(one.excess) else math.inf)
    ratios = sorted(one.norm_ratio for one in alike)
    found = (
        f"{worst.name}: cosine {worst.cosine:.6f}, norm ratio {worst.norm_ratio:.6g}, worst row {worst.worst_row[0]} "
        f"({worst.worst_row[1]:.3g}), worst block {list(worst.worst_block[0])} ({worst.worst_block[1]:.3g})"
    )
    layers = {int(one.name.split(".")[2]) for one in alike if one.name.startswith("model.layers.")}
    return AuditFinding(
        "reference", name, cause, worst.basis, found,
        f"{name}: {len(alike)} weights differ from the reference by more than their format rounds; worst {found}.",
        layers=tuple(sorted(layers)), tensors=tuple(one.name for one in alike),
        evidence={"tensors": len(alike), "norm_ratio": [ratios[0], ratios[-1]], "excess": worst.excess},
    )  # fmt: skip
