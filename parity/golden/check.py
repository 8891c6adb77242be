"""Does a result still hold its golden, and if not, where and by how much?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from parity.compare.ranking import rank
from parity.errors import GoldenError
from parity.floor import DerivedFloor
from parity.golden.calibration import Calibration, MeasuredFloor, combine, dtypes_of, measure_floor
from parity.golden.contents import Contents
from parity.golden.file import FORMAT, Golden
from parity.golden.floors import GoldenFloor, compare_contents, refuse_blind
from parity.golden.gates import Limits, WidenedFloor
from parity.golden.numerics import difference_words, numerics_of
from parity.golden.window import cut_trace, starts_of
from parity.records import Comparison, Summary
from parity.trace import capture_environment

OLDER = "floors of format 1, which bounded each kind of slice by itself and not the check as a whole"


@dataclass(frozen=True)
class GoldenCheck:
    """A result held against its golden.

    summary: a record a tensor (or site), scores in floors, measured ones where there are. limits: how many derived
    floors each may be off; 1 where it says nothing. elsewhere: how this environment differs from the golden's, in
    words; empty where it does not.
    measured: the measured floors that gave the limits, the golden's environment first.
    dtypes: of the golden's tensors or sites, by name.
    """

    summary: Summary
    limits: Limits
    floor: GoldenFloor
    elsewhere: str = ""
    measured: tuple[MeasuredFloor, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """True when something was compared and all of it is equal or within its limit."""
        return self.summary.healthy

    @property
    def worst(self) -> Comparison | None:
        """The worst record; what is missing or of another shape before all numbers."""
        return next(iter(rank(self.summary.comparisons)), None)

    @property
    def unhealthy(self) -> tuple[Comparison, ...]:
        """The records that are not cleared, worst first."""
        return tuple(r for r in rank(self.summary.comparisons) if not r.verdict.healthy)


def numerics_here(contents: Contents) -> dict[str, str]:
    """The environment of a result: of a trace what it says itself, of tensors this process."""
    if contents.trace is not None:
        return numerics_of(contents.trace.run.environment, here=False)
    return numerics_of(capture_environment(device=contents.device), here=True)


def make_golden(
    contents: Contents,
    *,
    test: str,
    name: str | None,
    floor: GoldenFloor,
    positions: int | None = None,
    calibration: Calibration | None = None,
    provenance: Mapping[str, object] | None = None,
) -> Golden:
    """A golden of this result, with the floor measured here where there is a calibration."""
    numerics = numerics_here(contents)
    measured = (
        () if calibration is None else (measure_floor(calibration, floor=floor, like=contents, numerics=numerics),)
    )
    return Golden(
        contents, test, name, floor_label(floor, calibration), numerics, positions, measured, dict(provenance or {})
    )


def check_golden(
    golden: Golden, actual: Contents, *, floor: GoldenFloor, calibration: Calibration | None = None
) -> GoldenCheck:
    """Hold a result against a golden.

    A derived floor has no environment in it and is the same everywhere, as a calibrated one is of its recipe. With a
    calibration the limit is what was measured: in the golden's environment with what it stores, in another one together
    with what is stored for that one, or with what is measured now.
    Raises GoldenError for a golden of another floor, TraceError for traces of other token ids or weights.
    """
    label = floor_label(floor, calibration)
    if label != golden.floor:
        raise GoldenError(
            place="floor",
            expected=f"the golden's own, {golden.floor}",
            found=label,
            next_step="A floor is part of the golden: rewrite it with --parity-update if the change is meant.",
        )
    limits: Limits = {}
    measured: tuple[MeasuredFloor, ...] = ()
    here = numerics_here(actual)
    if calibration is not None:
        measured = _measured(golden, here, calibration, floor, actual)
        limits = combine(then=measured[0], now=measured[-1])
    summary = compare_within(golden.contents, _cut(golden, actual), floor=floor, limits=limits)
    elsewhere = difference_words(golden=golden.numerics, here=here)
    return GoldenCheck(summary, limits, floor, elsewhere, measured, dtypes_of(golden.contents))


def compare_within(golden: Contents, actual: Contents, *, floor: GoldenFloor, limits: Limits) -> Summary:
    """Compare by a floor that is as much wider as was measured."""

    def widened(derived: DerivedFloor, tensor: str, _: frozenset[str]) -> DerivedFloor:
        return WidenedFloor(derived.model, tensor, limits)

    gate = widened if limits else None
    return refuse_blind(compare_contents(golden=golden, actual=actual, floor=floor, gate=gate), limits)


def with_environment(golden: Golden, actual: Contents, *, floor: GoldenFloor, calibration: Calibration) -> Golden:
    """The golden with what is measured here in its table; its tensors stay as they are."""
    here = numerics_here(actual)
    new = measure_floor(calibration, floor=floor, like=actual, numerics=here)
    others = tuple(one for one in golden.measured if one.numerics != here)
    return replace(golden, measured=(new, *others) if here == golden.numerics else (*others, new))


def floor_label(floor: GoldenFloor, calibration: Calibration | None) -> str:
    """The floor as a golden names it."""
    return floor.label if calibration is None else f"{floor.label}, measured"


def _measured(
    golden: Golden, here: Mapping[str, str], calibration: Calibration, floor: GoldenFloor, actual: Contents
) -> tuple[MeasuredFloor, ...]:
    then = golden.measured_in(golden.numerics)
    if then is None:
        raise GoldenError(
            place="golden",
            expected="what was measured in the environment it was written in",
            found="nothing of the kind" if golden.format == FORMAT else OLDER,
            next_step="Where it was written, add it with --parity-measure: its values stay. Elsewhere rewrite the "
            "golden with --parity-update, which shows what moved.",
        )
    now = golden.measured_in(here) or measure_floor(calibration, floor=floor, like=actual, numerics=here)
    return then, now


def _cut(golden: Golden, actual: Contents) -> Contents:
    if golden.positions is None or golden.contents.trace is None or actual.trace is None:
        return actual
    return replace(actual, trace=cut_trace(actual.trace, starts_of(golden.contents.trace)))
