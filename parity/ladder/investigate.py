"""Is this engine wrong, where, and why? Given what it did with a prompt, an oracle and a floor, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parity.errors import UsageError
from parity.floor import Floor
from parity.invariance import Coverage, launch_coverage
from parity.ladder.calibrate import Opening
from parity.ladder.locate import locate
from parity.ladder.observe import Observation
from parity.ladder.prove import Proof
from parity.ladder.prove_finding import prove_finding
from parity.ladder.replay import Replay
from parity.ladder.sweep import oracle_trace, sweep_against
from parity.records import Comparison, Finding, Summary
from parity.runner import Generation, RunnerInfo


@dataclass(frozen=True)
class CaptureInvestigation:
    """The evidence on one prompt and what follows from it.

    chained: error with the SUT's own inputs all the way; isolated: each stage alone, on the SUT's inputs.
    coverage: what each launch reached of its work, no oracle involved. proof: what grafts at the finding did; None for
        an investigation that found no fault, or could not run the SUT again (then the finding's own proof says why).
    """

    observation: Observation
    oracle: RunnerInfo
    oracle_generation: Generation
    floor: Floor
    chained: Summary
    isolated: Summary
    coverage: tuple[Coverage, ...]
    finding: Finding
    proof: Proof | None = None

    @property
    def within_floor(self) -> bool:
        """True when every site is cleared, chained and isolated, and no launch falls short."""
        return self.chained.healthy and self.isolated.healthy and not any(c.truncated for c in self.coverage)

    @property
    def residuals(self) -> tuple[Comparison, ...]:
        """The residual stream leaving each layer, chained; its `whole` is what most comparators look at."""
        return tuple(record for record in self.chained.comparisons if record.stage == "resid.out")

    @property
    def whole_tensor(self) -> Comparison:
        """The residual leaving the first layer of the finding, as one tensor; without a finding, the last layer's."""
        layers = self.finding.layers
        return next((r for r in self.residuals if layers and r.layer == layers[0]), self.residuals[-1])

    @property
    def worst_over_floor(self) -> float | None:
        """Worst slice over its gate, over all sites of both summaries."""
        scores = [s.worst_over_floor for s in (self.chained, self.isolated) if s.worst_over_floor is not None]
        return max(scores, default=None)


def investigate_capture(
    observation: Observation,
    oracle: Any,
    *,
    floor: Floor,
    oracle_generation: Generation,
    sut: Any = None,
    emulation: Opening | None = None,
    on_step: Callable[[str, int, int], None] | None = None,
) -> CaptureInvestigation:
    """Climb the rungs that need one capture: launch coverage, chained sweep, isolated replay, zoom.

    oracle: an exact runner that can forward, graft and replay, of the SUT's family and lineage.
    floor: of the SUT's recipe. oracle_generation: the oracle's continuation of the same prompt, the control.
    sut, emulation: the engine, still open, and a runner that replays its recipe beside it: with both, what is found is
        tried by grafts (`prove`); without, or where the grafts cannot be run, it stands unproved.
    Raises UsageError for runners of different families or weights, and for a trace of several requests.
    """
    info = oracle.describe()
    run = observation.trace.run
    if len(run.requests) != 1:
        raise UsageError(
            place="investigation",
            expected="a trace of one request: what a stage adds is judged request by request",
            found=f"{len(run.requests)} requests",
            next_step="Observe and investigate each request by itself.",
        )
    if info.lineage != run.lineage:
        raise UsageError(
            place="investigation",
            expected=f"an oracle on the SUT's weights: {run.lineage.root}, {run.lineage.conversions or 'unconverted'}",
            found=f"{info.lineage.root}, {info.lineage.conversions or 'unconverted'}",
            next_step="Open the oracle on the SUT's model folder; it dequantizes by itself.",
        )
    if info.family != observation.info.family:
        raise UsageError(
            place="investigation",
            expected=f"an oracle of family {observation.info.family}, as the SUT",
            found=info.family,
            next_step="Compare runners of one family.",
        )
    coverage = launch_coverage(observation.trace)
    truth = oracle_trace(oracle, observation.trace)
    chained = sweep_against(oracle, truth, observation.trace, floor=floor)
    replay = Replay(observation.trace, oracle)
    isolated = replay.compare(
        floor=floor, progress=None if on_step is None else lambda done, total: on_step("replay", done, total)
    )
    finding = locate(replay, floor=floor, chained=chained, isolated=isolated, coverage=coverage)
    proof = None
    if sut is not None and emulation is not None and finding.verdict == "fault":
        finding, proof = prove_finding(
            sut,
            finding,
            oracle=oracle,
            emulation=emulation,
            request=observation.request,
            trace=observation.trace,
            chained=chained,
            floor=floor,
            truth=truth,
            generations=(observation.generation, oracle_generation),
            on_step=on_step,
        )
    return CaptureInvestigation(
        observation=observation,
        oracle=info,
        oracle_generation=oracle_generation,
        floor=floor,
        chained=chained,
        isolated=isolated,
        coverage=coverage,
        finding=finding,
        proof=proof,
    )
