"""What did an audit find? Checks with their outcome, findings that name a value or tensors, in one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.errors import UsageError
from parity.invariance.record import Outcome

NOT_STATED = "not stated"
"""What stands for a value that a side does not tell. It equals nothing."""


@dataclass(frozen=True)
class AuditFinding:
    """One difference, or one kind of difference of many tensors.

    name: the hyper-parameter, or what is wrong with the tensors. check: which check found it. cause: of
    parity.fingerprint.causes, empty where only the stage's own error tells. places: operations that it shows at
    (`L01.mlp.norm`). layers: theirs, sorted.
    tensors: the checkpoint's names. expected, found: both sides in words. sentence: all of it for a person.
    """

    check: str
    name: str
    cause: str
    expected: str
    found: str
    sentence: str
    places: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HyperRow:
    """One hyper-parameter on both sides; `not stated` where a side does not tell.

    stated: what the engine says. observed: what its operations were told, all values when there are several.
    """

    name: str
    checkpoint: Any
    stated: Any
    observed: Any
    verdict: str


@dataclass(frozen=True)
class WeightDistance:
    """How far one weight of a checkpoint lies from the same weight of its reference.

    cosine, norm_ratio (this over reference), rel_l2: of the whole tensor. worst_row, worst_block: index and rel_l2 of
    the worst row and the worst 128x128 block, edges included; a vector is one row. excess: the largest error of an
    element over what the format's rounding allows; above 1 is no rounding. outside: share of elements above 1.
    basis: what `excess` is measured by, with its source. scaled: whether it is stored as codes with scales.
    """

    name: str
    cosine: float
    norm_ratio: float
    rel_l2: float
    worst_row: tuple[int, float]
    worst_block: tuple[tuple[int, int], float]
    excess: float
    outside: float
    basis: str
    scaled: bool = False


@dataclass(frozen=True)
class AuditCheck:
    """One check: what was compared, how much of it, and what came of it. Held needs something compared."""

    name: str
    outcome: Outcome
    sentence: str
    compared: int = 0

    def __post_init__(self) -> None:
        if self.outcome is Outcome.HELD and self.compared < 1:
            raise UsageError(
                place=f"check {self.name}",
                expected="something compared where it held",
                found="nothing",
                next_step="Report a check that compared nothing as not run.",
            )


@dataclass(frozen=True)
class Audit:
    """Everything of one audit. A broken check has a finding, and a finding has a broken check.

    suspicions: what only a replay of the stage can tell; they break no check.
    """

    sut: str
    oracle: str
    reference: str | None
    checks: tuple[AuditCheck, ...]
    findings: tuple[AuditFinding, ...]
    values: tuple[HyperRow, ...] = ()
    distances: tuple[WeightDistance, ...] = ()
    suspicions: tuple[AuditFinding, ...] = ()

    def __post_init__(self) -> None:
        broken = {check.name for check in self.checks if check.outcome is Outcome.BROKEN}
        if broken != {finding.check for finding in self.findings}:
            raise UsageError(
                place="audit",
                expected="findings of exactly the checks that are broken",
                found=f"broken: {sorted(broken)}, findings of: {sorted({f.check for f in self.findings})}",
                next_step="This is a defect of parity.audit.",
            )

    @property
    def exit_code(self) -> int:
        """0: something held and nothing is wrong. 1: a difference. 2: nothing could be judged."""
        if self.findings:
            return 1
        outcomes = {check.outcome for check in self.checks}
        return 0 if Outcome.HELD in outcomes and Outcome.UNJUDGED not in outcomes else 2
