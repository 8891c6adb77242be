"""Which invariances are there, and which of them does this runner keep?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parity.errors import UsageError
from parity.floor import Floor
from parity.invariance.feeding import check_batch, check_causality, check_chunks, check_decode, check_padding
from parity.invariance.launches import check_coverage
from parity.invariance.norm_scale import check_norm_scale
from parity.invariance.record import Invariance, Outcome
from parity.invariance.relabelling import check_experts, check_heads
from parity.invariance.repeat import check_history, check_poison, check_probes, check_repeat
from parity.invariance.sisters import check_variants
from parity.invariance.subject import BRIEF, Subject
from parity.invariance.sums import check_sums
from parity.process_runner import OnStep
from parity.runner import Request, Runner

Check = Callable[[Subject], Invariance]

CHECKS: dict[str, Check] = {
    "coverage": check_coverage,
    "sums": check_sums,
    "repeat": check_repeat,
    "probes": check_probes,
    "poison": check_poison,
    "history": check_history,
    "chunks": check_chunks,
    "batch": check_batch,
    "padding": check_padding,
    "decode": check_decode,
    "causality": check_causality,
    "experts": check_experts,
    "heads": check_heads,
    "variants": check_variants,
    "norm_scale": check_norm_scale,
}
"""Every check by name, cheapest and most telling first."""


@dataclass(frozen=True)
class Examination:
    """All checks of one runner, in order."""

    runner: str
    recipe: str
    prompt: str
    ids: int
    invariances: tuple[Invariance, ...]

    @property
    def broken(self) -> tuple[Invariance, ...]:
        return tuple(one for one in self.invariances if one.outcome is Outcome.BROKEN)

    @property
    def settled(self) -> bool:
        """True when something held and nothing was left unjudged; what was not run is not counted as passed."""
        outcomes = {one.outcome for one in self.invariances}
        return Outcome.HELD in outcomes and Outcome.UNJUDGED not in outcomes


def run_checks(
    runner: Runner,
    request: Request,
    *,
    checks: Sequence[str] = (),
    brief: int = BRIEF,
    floor: Floor | None = None,
    on_step: OnStep | None = None,
) -> Examination:
    """Run the checks named in `checks`, all when empty, on `runner`; see CHECKS.

    request: the prompt; overloaded experts need a long one. on_step: hears what is run, checks done, checks in all.
    Raises UsageError for a name that is no check, and for a floor of another recipe or lineage than the runner's.
    """
    unknown = [name for name in checks if name not in CHECKS]
    if unknown:
        raise UsageError(
            place="invariances",
            expected="one of " + ", ".join(CHECKS),
            found=", ".join(unknown),
            next_step="Leave it out for all of them.",
        )
    if floor is not None:
        floor.refuse_other(runner.describe())
    names = [name for name in CHECKS if not checks or name in checks]
    done = [0]
    current = [""]

    def hear(what: str) -> None:
        if on_step is not None:
            on_step(f"{current[0]}: {what}", done[0], len(names))

    subject = Subject(runner, request, brief=brief, floor=floor, on_run=hear)
    found = []
    for number, name in enumerate(names):
        done[0], current[0] = number, name
        found.append(CHECKS[name](subject))
    info = subject.info
    return Examination(info.name, info.recipe.name, request.name, len(request.ids), tuple(found))
