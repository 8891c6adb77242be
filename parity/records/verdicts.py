"""What did a comparison conclude? The closed list of verdicts, one pair judged, and all pairs of two traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from parity.display import Displayed
from parity.errors import UsageError


class Verdict(StrEnum):
    """What a comparison concluded. Closed: there is no other outcome, and none of them means "skipped"."""

    MATCH = "MATCH"
    WITHIN_FLOOR = "WITHIN_FLOOR"
    EXCEEDS_FLOOR = "EXCEEDS_FLOOR"
    NO_FLOOR = "NO_FLOOR"
    NO_POWER = "NO_POWER"
    NONFINITE = "NONFINITE"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    DTYPE_MISMATCH = "DTYPE_MISMATCH"
    MISSING_IN_SUT = "MISSING_IN_SUT"
    MISSING_IN_ORACLE = "MISSING_IN_ORACLE"
    NOT_COMPARED = "NOT_COMPARED"

    @property
    def healthy(self) -> bool:
        """True for the two verdicts that clear a pair."""
        return self in (Verdict.MATCH, Verdict.WITHIN_FLOOR)

    @property
    def faulty(self) -> bool:
        """True for the verdicts that are evidence of a divergence, whatever its cause."""
        return self in (
            Verdict.EXCEEDS_FLOOR,
            Verdict.NONFINITE,
            Verdict.SHAPE_MISMATCH,
            Verdict.DTYPE_MISMATCH,
            Verdict.MISSING_IN_SUT,
        )


@dataclass(frozen=True)
class SliceResult:
    """One slice of a compared tensor.

    kind: `tensor`, `row`, `head`, `expert`, `columns`, or `flipped_row` for a row whose token was routed otherwise by
        a near-tie, here or upstream; index: its number on that axis, or the row's number.
    where: the same in words (`position 412`, `expert 3, its row 128`).
    metrics: by formula name (`rel_l2`, `cosine`, `norm_ratio`, `slope`, `max_abs`, `nonfinite`).
    over_floor: the worst metric's standardized score over the floor's gate; above 1 exceeds it, None without a floor.
    by: the metric that gave `over_floor`.
    """

    kind: str
    index: int
    where: str
    metrics: Mapping[str, float]
    over_floor: float | None = None
    by: str | None = None


@dataclass(frozen=True)
class Comparison(Displayed):
    """One pair of captures, judged.

    name: `L02.moe.gate` or `final_norm`; phase: `prefill` or `decode`.
    whole: metrics of the whole tensor; worst: the worst slice of each kind, worst first.
    rows: rows compared; excluded_rows: rows that had to be left out (no counterpart on the other side).
    unjudged: slices that were measured and lie outside what the floor was calibrated for.
    mode: `chained` (each side on its own inputs) or `isolated` (the oracle on the SUT's inputs).
    over_gates: score over each gate that was applied to it: `error`, against exact arithmetic, and `distance`, against
        the recipe's emulation on the same inputs; `over_floor` is the larger.
    reason: why, for every verdict that is not MATCH or WITHIN_FLOOR.
    """

    name: str
    layer: int | None
    stage: str
    phase: str
    verdict: Verdict
    whole: Mapping[str, float] = field(default_factory=dict)
    worst: tuple[SliceResult, ...] = ()
    over_floor: float | None = None
    rows: int = 0
    excluded_rows: int = 0
    reason: str = ""
    unjudged: int = 0
    mode: str = "chained"
    over_gates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        judged = self.verdict in (Verdict.WITHIN_FLOOR, Verdict.EXCEEDS_FLOOR)
        if judged and self.over_floor is None:
            raise UsageError(
                place=f"comparison {self.name}",
                expected=f"a score over the floor with verdict {self.verdict.value}",
                found="none",
                next_step="A judged comparison carries the score it was judged by; without a floor use NO_FLOOR.",
            )
        if self.verdict not in (Verdict.MATCH, Verdict.WITHIN_FLOOR) and not self.reason:
            raise UsageError(
                place=f"comparison {self.name}",
                expected=f"a reason with verdict {self.verdict.value}",
                found="an empty one",
                next_step="State what was expected and what was found.",
            )

    def __repr__(self) -> str:
        over = "" if self.over_floor is None else f", {multiple(self.over_floor)} of its gate"
        where = f" at {self.worst[0].where}" if self.worst and over else ""
        why = f": {self.reason}" if self.reason else ""
        return f"Comparison({self.name}, {self.phase}, {self.mode}: {self.verdict.value}{over}{where}{why})"


@dataclass(frozen=True)
class Summary(Displayed):
    """All comparisons of two runs. It cannot exist unless every declared probe is accounted for exactly once.

    unobservable: stages that an engine says it cannot show, with its reason; they are not among the declared.
    notes: what a reader has to know of the two runs besides, such as the reason given for comparing two checkpoints.
    """

    declared: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    unobservable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found, wanted = Counter(c.name for c in self.comparisons), Counter(self.declared)
        if found != wanted:
            missing, extra = wanted - found, found - wanted
            raise UsageError(
                place="summary of a comparison",
                expected=f"one comparison for each of {len(self.declared)} declared probes",
                found=f"without one: {sorted(missing) or 'none'}; not declared: {sorted(extra) or 'none'}",
                next_step="Record a probe that was not compared as NOT_COMPARED with its reason.",
            )

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.items()) or "nothing was compared"
        worst = max((c for c in self.comparisons if c.over_floor is not None), key=_score, default=None)
        most = "" if worst is None else f"; the worst {worst.name}, {multiple(worst.over_floor)} of its gate"
        return f"Summary({len(self.comparisons)} comparisons: {counts}{most})"

    @property
    def verdicts(self) -> dict[str, int]:
        """Number of comparisons by verdict, zero counts left out."""
        counts = Counter(c.verdict for c in self.comparisons)
        return {verdict.value: counts[verdict] for verdict in Verdict if counts[verdict]}

    @property
    def healthy(self) -> bool:
        """True when something was compared and every pair was cleared. A comparison of nothing is a failure."""
        return bool(self.comparisons) and all(c.verdict.healthy for c in self.comparisons)

    @property
    def diverged(self) -> bool:
        """True when some pair is evidence of a divergence."""
        return any(c.verdict.faulty for c in self.comparisons)

    @property
    def worst_over_floor(self) -> float | None:
        """The largest score over the floor among all pairs; None when nothing was judged."""
        return max((c.over_floor for c in self.comparisons if c.over_floor is not None), default=None)


def _score(record: Comparison) -> float:
    return -1.0 if record.over_floor is None else record.over_floor


def multiple(value: float | None) -> str:
    """A score for a reader: 0.994, 283, 3432."""
    return "?" if value is None else f"{value:.3g}" if not 1000 <= value < 1e6 else f"{value:.0f}"
