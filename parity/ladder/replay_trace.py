"""What does one captured trace say about every stage? Isolated replay as an instrument by itself, live or from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from parity.errors import UsageError
from parity.floor import Floor
from parity.ladder.attribution import Attribution, FirstStages, attribute, first_stages
from parity.ladder.replay import Replay
from parity.ladder.sweep import RoutingOfLayer, oracle_trace, routing_by_layer, sweep_against, sweep_free
from parity.records import Comparison, Summary
from parity.stages import matches
from parity.trace import Trace

OTHER_WEIGHTS = (
    "To ask how the engine computes, open the oracle on the engine's own model folder; it dequantizes by itself. If it "
    "is the weights that you doubt: parity compare --oracle FOLDER --sut FOLDER --floor derived:DTYPE names the "
    "tensors that differ, and where."
)


@dataclass(frozen=True)
class ReplayResult:
    """rows: each stage's error, split. isolated, chained, free: the same judged, `free` against an oracle that chose
    its own experts. routing: how far both choices agree there. first: the stage that adds, the stage that shows."""

    rows: tuple[Attribution, ...]
    isolated: Summary
    chained: Summary
    free: Summary
    routing: tuple[RoutingOfLayer, ...]
    first: FirstStages
    has_floor: bool

    @property
    def adds_error(self) -> bool:
        """True when a stage shown here adds error over its floor."""
        shown = {(row.name, row.phase) for row in self.rows}
        return any(c.verdict.faulty and (c.name, c.phase) in shown for c in self.isolated.comparisons)

    def judged(self, row: Attribution) -> Comparison | None:
        """The isolated comparison of a row."""
        return next((c for c in self.isolated.comparisons if (c.name, c.phase) == (row.name, row.phase)), None)

    def sentence(self) -> str:
        """The conclusion in words."""
        if not self.has_floor:
            return "Measured, not judged: without a floor nothing tells noise from a fault."
        adds = self.first.adds or "none"
        return f"First stage that adds error: {adds}. First stage that shows error: {self.first.shows or 'none'}."

    def as_dict(self) -> dict[str, Any]:
        """What `parity replay --json` prints."""
        return {
            "rows": [
                {
                    "site": row.name,
                    "phase": row.phase,
                    "shown": row.shown,
                    "inherited": row.inherited,
                    "added": row.added,
                    "distance": row.distance,
                    "amplification": row.amplification,
                    "obstacle": row.obstacle,
                    "verdict": None if (judged := self.judged(row)) is None else judged.verdict,
                    "over_gates": {} if judged is None else dict(judged.over_gates),
                    "reason": "" if judged is None else judged.reason,
                }
                for row in self.rows
            ],
            "first_adds": self.first.adds,
            "first_shows": self.first.shows,
            "routing": self.routing,
            "verdicts": {
                "isolated": self.isolated.verdicts,
                "chained": self.chained.verdicts,
                "free": self.free.verdicts,
            },
        }


def replay_trace(
    trace: Trace,
    oracle: Any,
    *,
    floor: Floor | None = None,
    layers: Sequence[int] = (),
    stages: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Replay every stage of a trace on the SUT's own inputs and split its error.

    oracle: exact; can forward, graft and replay, on the SUT's weights. layers, stages: which rows to show (patterns);
    all sites are judged whatever is shown, since the first that adds error may be another.
    Raises UsageError for a trace without a single stage whose inputs it holds too, for other weights than the oracle's,
    for a floor of another recipe or lineage, and for layers or stages that the model does not have.
    """
    if floor is not None:
        floor.refuse_other(trace.run)
    _refuse_other_weights(trace, oracle)
    replay = Replay(trace, oracle)
    _refuse_unknown(replay, layers, stages)
    isolated = replay.compare(floor=floor, progress=progress)
    if not any(record.rows for record in isolated.comparisons):
        raise UsageError(
            place="isolated replay",
            expected="a trace that holds some stage together with all that it reads",
            found=f"{len(trace.captures)} captures, and no such stage: {isolated.comparisons[-1].reason}",
            next_step="Capture whole layers over all positions (no stage filter), or a stage and its inputs as "
            "parity/stages.py lists them.",
        )
    truth = oracle_trace(oracle, trace)
    rows = tuple(
        row
        for row in attribute(replay, truth)
        if (not layers or row.layer in layers) and matches(row.stage, tuple(stages))
    )
    chained = sweep_against(oracle, truth, trace, floor=floor)
    free = sweep_free(oracle, trace, floor=floor)
    first = first_stages(chained=chained, isolated=isolated, graph=replay.family)
    return ReplayResult(rows, isolated, chained, free, tuple(routing_by_layer(free)), first, floor is not None)


def _refuse_other_weights(trace: Trace, oracle: Any) -> None:
    theirs = oracle.describe().lineage
    if theirs != trace.run.lineage:
        raise UsageError(
            place="isolated replay",
            expected=f"an oracle on the SUT's weights: {trace.run.lineage.short}",
            found=theirs.short,
            next_step=OTHER_WEIGHTS,
        )


def _refuse_unknown(replay: Replay, layers: Sequence[int], stages: Sequence[str]) -> None:
    count = replay.trace.run.layers
    sites = {node.name for _, node in replay.family.sites(count)}
    for wrong in [layer for layer in layers if not 0 <= layer < count]:
        raise UsageError(
            place="isolated replay",
            expected=f"layers 0..{count - 1}",
            found=str(wrong),
            next_step="Layer indices are absolute and start at 0.",
        )
    for pattern in stages:
        if not any(matches(name, (pattern,)) for name in sites):
            raise UsageError(
                place="isolated replay",
                expected="a stage of this family: " + ", ".join(sorted(sites)),
                found=repr(pattern),
                next_step="Spell the stage as in parity/stages.py; patterns such as moe.* are allowed.",
            )
