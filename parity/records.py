"""The frozen records that every part of the lab hands to the next: captures, comparisons, verdicts, findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
class Slice:
    """Part of a stage's tensor. None on an axis means all of it; an empty tuple is not allowed."""

    heads: tuple[int, ...] | None = None
    experts: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    columns: tuple[int, int] | None = None
    positions: tuple[int, int] | None = None


@dataclass(frozen=True)
class Site:
    """Where: layers (absolute; empty for stages outside the layers), stage, and the slice of its tensor."""

    layers: tuple[int, ...]
    stage: str
    slice: Slice = field(default_factory=Slice)


@dataclass(frozen=True)
class Environment:
    """What ran it: enough to tell whether two traces may be compared bit by bit."""

    python: str
    torch: str
    triton: str | None
    transformers: str | None
    platform: str
    cpu_capability: str
    threads: int
    device: str
    interpreted: bool


@dataclass(frozen=True)
class Recipe:
    """The precision recipe of a forward pass: formats of weights, activations, cache, and where it accumulates.

    name: the recipe's short name (`fp32`, `bf16`, `fp8_block`).
    """

    name: str
    weights: str
    activations: str
    compute: str
    accumulate: str
    kv_cache: str
    residual: str


@dataclass(frozen=True)
class Lineage:
    """Which weights: the hash of the root checkpoint and the conversions that led from it to these files."""

    root: str
    conversions: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """For a message: the first twelve digits of the hash, and the conversions."""
        kind, _, digits = self.root.rpartition(":")
        head = f"{kind}:{digits[:12]}" if kind else digits[:12]
        return ", ".join([head, *self.conversions])


@dataclass(frozen=True)
class HeldOut:
    """False alarms of a noise floor, counted on clean runs of documents that it was not calibrated on.

    alarms: runs with any slice over its gate. upper_bound: of the rate of such runs, one-sided, at `confidence`.
    worst, worst_where: the highest slice over its gate in any of them. unjudged: bins of theirs without a gate.
    """

    runs: int
    documents: int
    alarms: int
    upper_bound: float
    confidence: float
    worst: float
    worst_where: str
    unjudged: int


@dataclass(frozen=True)
class Power:
    """The weakest planted damage that a gate sees in clean runs, at every place tried.

    kind: of the slice it was planted in. damage: `lost rows` (share), `scale` (relative), `wrong elements` (share) or
        `swapped rows` (share).
    strength: the weakest seen; None: NO_POWER, the strongest tried (`tried`) was not seen at some place.
    """

    mode: str
    stage: str
    kind: str
    damage: str
    strength: float | None
    tried: float
    rows: int


@dataclass(frozen=True)
class Rows:
    """Which token each of the N leading rows of a capture is.

    request: [N] int32, index into the run's requests. position: [N] int64, absolute position in that request.
    slot, expert: [N] int32 for expert rows (one row per (token, slot) pair), None for token rows.
    """

    request: NDArray[np.int32]
    position: NDArray[np.int64]
    slot: NDArray[np.int32] | None = None
    expert: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
        """The rows at `index` (positions or a mask), in that order."""
        return Rows(
            self.request[index],
            self.position[index],
            None if self.slot is None else self.slot[index],
            None if self.expert is None else self.expert[index],
        )


@dataclass(frozen=True)
class Capture:
    """One tensor that a probe saw, without its payload.

    number: unique in its trace, in order of capture. layer: absolute, None outside the layers.
    phase: `prefill` or `decode`; step: 0 for prefill, 1, 2, ... for the decode steps; chunk: prefill chunk number.
    axes: axis letters of parity.stages; dtype: as torch spells it, without `torch.`; shape: leading axis is `rows`.
    geometry: where a kernel has one: `tile_m`, `expert_offsets`. launch: `grid`, `block`, `covers`, `requires`.
    placement: global shape, offset and rank of a shard. reduction: `complete` or `partial`. basis: of latent attention
    or rope layout. model: `target` or `draft`. variant: the kernel path that produced it.
    """

    number: int
    stage: str
    layer: int | None
    phase: str
    step: int
    chunk: int
    axes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    rows: Rows
    geometry: Mapping[str, Any] = field(default_factory=dict)
    launch: Mapping[str, Any] = field(default_factory=dict)
    placement: Mapping[str, Any] | None = None
    reduction: str = "complete"
    basis: str | None = None
    model: str = "target"
    variant: str | None = None

    @property
    def name(self) -> str:
        """`L02.moe.gate`, or the bare stage outside the layers."""
        return site_name(self.layer, self.stage)


def site_name(layer: int | None, stage: str) -> str:
    """`L02.moe.gate`, or the bare stage outside the layers."""
    return stage if layer is None else f"L{layer:02d}.{stage}"


def split_site(name: str) -> tuple[int | None, str]:
    """The layer and stage that `site_name` made a name of: `L02.moe.gate` is (2, "moe.gate")."""
    layer, _, rest = name.partition(".")
    return (int(layer[1:]), rest) if layer[:1] == "L" and layer[1:].isdigit() else (None, name)


@dataclass(frozen=True)
class Run:
    """What a trace is a trace of.

    requests: token ids by request, in the order that `Rows.request` indexes; request_names likewise.
    declared: every (layer, stage) the runner promised to capture under the filter in force.
    hyper: effective hyper-parameters of the model as it ran. flags: settings that change behaviour.
    """

    family: str
    model: str
    layers: int
    request_names: tuple[str, ...]
    requests: tuple[tuple[int, ...], ...]
    recipe: Recipe
    lineage: Lineage
    environment: Environment
    declared: tuple[tuple[int | None, str], ...] = ()
    hyper: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unobservable(self) -> frozenset[str]:
        """Stages that the engine says it cannot show, whatever is asked."""
        return frozenset(self.hidden)

    @property
    def hidden(self) -> dict[str, str]:
        """The same with the engine's reason: `flags["unobservable"]`."""
        said = self.flags.get("unobservable")
        return {str(name): str(why) for name, why in said.items()} if isinstance(said, Mapping) else {}


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
        over = "" if self.over_floor is None else f", {_multiple(self.over_floor)} of its gate"
        where = f" at {self.worst[0].where}" if self.worst and over else ""
        why = f": {self.reason}" if self.reason else ""
        return f"Comparison({self.name}, {self.phase}, {self.mode}: {self.verdict.value}{over}{where}{why})"


def _score(record: Comparison) -> float:
    return -1.0 if record.over_floor is None else record.over_floor


@dataclass(frozen=True)
class Summary(Displayed):
    """All comparisons of two runs. It cannot exist unless every declared probe is accounted for exactly once.

    unobservable: stages that an engine says it cannot show, with its reason; they are not among the declared.
    """

    declared: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    unobservable: Mapping[str, str] = field(default_factory=dict)

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
        most = "" if worst is None else f"; the worst {worst.name}, {_multiple(worst.over_floor)} of its gate"
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


@dataclass(frozen=True)
class Finding(Displayed):
    """What an investigation concluded: a site with its cause, evidence and proof.

    verdict: `fault`, `clean`, `refused` or `unresolved`. rung: which experiment decided.
    cause: the cause class; sentence: the same for a person. over_floor: the site's worst slice over its gate.
    evidence: numbers behind it, by name. not_excluded: what this experiment cannot rule out.
    """

    verdict: str
    rung: str
    layers: tuple[int, ...] = ()
    stage: str | None = None
    slice: Slice = field(default_factory=Slice)
    cause: str | None = None
    sentence: str = ""
    over_floor: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    not_excluded: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layers = f" of layers {', '.join(map(str, self.layers))}" if self.layers else ""
        where = f", {self.stage}{layers}" if self.stage else ""
        why = f": {self.cause}" if self.cause else ""
        over = "" if self.over_floor is None else f", {_multiple(self.over_floor)} of its gate"
        proved = ", proved" if self.proof.get("proved") else ""
        return f"Finding({self.verdict}{where}{why}{over}{proved})"


def as_json(record: Any) -> Any:
    """A record as plain JSON values: enums to their value, tuples and arrays to lists, paths, NaN and inf to text.

    Fields whose metadata say `json: False` are left out.
    """
    if is_dataclass(record) and not isinstance(record, type):
        shown = (item.name for item in fields(record) if item.metadata.get("json", True))
        return {key: as_json(getattr(record, key)) for key in shown}
    if isinstance(record, Enum):
        return record.value
    if isinstance(record, Mapping):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple, set, frozenset)):
        return [as_json(value) for value in record]
    if isinstance(record, PurePath):
        return str(record)
    if isinstance(record, np.ndarray):
        return as_json(record.tolist())
    if isinstance(record, np.generic):
        return as_json(record.item())
    if isinstance(record, float) and (record != record or record in (float("inf"), float("-inf"))):
        return repr(record)
    return record


def _multiple(value: float | None) -> str:
    """A score for a reader: 0.994, 283, 3432."""
    return "?" if value is None else f"{value:.3g}" if not 1000 <= value < 1e6 else f"{value:.0f}"
