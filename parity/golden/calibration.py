"""How far are honest runs from exact arithmetic on this machine? A floor that is measured, for one environment each.

A derived floor covers one rounding (or N) of a common exact value. A computation of several steps may honestly be off
by more, by how much depends on instruction set and libraries, and nobody should have to guess it. So a trusted
implementation is run here, a few times in different honest ways, and held against exact arithmetic:

    m(i, k) = run i's distance in derived floors, by k: tensor, kind of slice and metric; at least 1/2, an element's 1
    m(E, k) = max_i m(i, k) * c, and c = the largest, over all k, of the worst run over the second worst

A golden was written in environment A and is checked in B. Each side is within m of the same exact values, so the two
are within m(A) + m(B) of each other (triangle inequality). That sum is the limit, never below one floor, which is what
the halves are for; in the environment of the golden it is 2 m(A). No factor is written by hand, and no number of the
code under test enters.

What can raise an alarm is a whole check, dozens of k at once, so the run is the unit and c is there: R(i) = max_k of
m(i, k) over the worst of the *other* runs is a score of one run among the others. Of n + 1 exchangeable runs, a new one
has the largest R with probability at most 1 / (n + 1) (conformal prediction; Vovk et al. 2005); left out of the others'
scores it can only raise those, and the largest of them is c. So an honest run passes m at any k at all with at most
1 / (n + 1), and a false alarm, for which one of the two sides must, has at most 2 / (n + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.errors import GoldenError
from parity.floor import DerivedFloor, Floor
from parity.golden.contents import Contents, contents_of
from parity.golden.floors import GoldenFloor, compare_contents
from parity.golden.gates import Limits, NotingFloor
from parity.records import Comparison, Verdict

RUNS = 19
"""Honest runs: a false alarm in at most one check of ten, by the bound above; in practice far fewer."""

_MEASURED = (Verdict.MATCH, Verdict.WITHIN_FLOOR, Verdict.EXCEEDS_FLOOR, Verdict.NO_POWER)


@dataclass(frozen=True)
class Calibration:
    """A trusted implementation of what is checked, which shares no code with it.

    exact: computes the same in a wider dtype (float64, or float32 for a 16-bit result). honest: the same in the dtypes
    of the golden, in a way that may depend on the number it is told (0, 1, ...): another order of summation, other
    chunks, other threads. Both return what `contents_of` takes, under the golden's names; what they leave out keeps the
    derived floor. runs: how often `honest` is called, at least 1.
    """

    exact: Callable[[], Any]
    honest: Callable[[int], Any]
    runs: int = RUNS


@dataclass(frozen=True)
class MeasuredFloor:
    """What a calibration measured in one environment.

    limits: m(E, k). distinct: runs that differ in any bit; equal ones count once.
    """

    numerics: Mapping[str, str]
    limits: Limits
    runs: int
    distinct: int


def measure_floor(
    calibration: Calibration, *, floor: GoldenFloor, like: Contents, numerics: Mapping[str, str]
) -> MeasuredFloor:
    """Run it here. like: what is checked; honest runs must have its dtypes. floor: the unit, a derived one.

    Raises GoldenError for a calibrated floor, fewer than one run, other dtypes or shapes, NaN, and integers that
    differ: such runs are no sample of rounding noise.
    """
    if isinstance(floor.floor, Floor) or calibration.runs < 1:
        raise _refused(
            "a derived floor as unit, and at least one run", f"{floor.label}, {calibration.runs} runs", "Leave one out."
        )
    exact = contents_of(calibration.exact())
    scores: list[dict[str, dict[str, float]]] = []
    seen: list[Contents] = []
    for number in range(calibration.runs):
        honest = contents_of(calibration.honest(number))
        _check_alike(honest, like)
        own: dict[str, dict[str, float]] = {}

        def noting(derived: DerivedFloor, tensor: str, sites: frozenset[str], own: Any = own) -> DerivedFloor:
            return NotingFloor(derived.model, tensor, sites, own)

        # Rounded side first: the unit is the floor of its dtype.
        for record in compare_contents(
            golden=honest, actual=exact, floor=floor, same_dtype=False, gate=noting
        ).comparisons:
            _refuse_fault(record, number)
        if not any(_equal(honest, other) for other in seen):
            seen.append(honest)
            scores.append(own)
    return MeasuredFloor(dict(numerics), limits_of(scores), calibration.runs, len(seen))


def limits_of(runs: Sequence[Limits]) -> Limits:
    """m(E, k) of distinct runs' scores m(i, k); of one run alone its own scores, with which nothing is promised."""
    ranked = {
        (key, kind): sorted((max(_least(kind), run.get(key, {}).get(kind, 0.0)) for run in runs), reverse=True)
        for key, kind in {(key, kind) for run in runs for key, kinds in run.items() for kind in kinds}
    }
    apart = max((worst[0] / worst[1] for worst in ranked.values() if len(worst) > 1), default=1.0)
    found: dict[str, dict[str, float]] = {}
    for (key, kind), worst in sorted(ranked.items()):
        found.setdefault(key, {})[kind] = apart * worst[0]
    return found


def _least(kind: str) -> float:
    """Two halves are one floor, which is allowed in any case. An element's score is 0 up to one floor and says nothing
    below: each side may be off by that much unseen."""
    return 1.0 if kind.endswith(" element") else 0.5


def combine(*, then: MeasuredFloor, now: MeasuredFloor) -> Limits:
    """The limits of a golden of one environment in another: the sum of both, at least 1, each on its own."""
    found: dict[str, dict[str, float]] = {}
    for key in {*then.limits} & {*now.limits}:
        a, b = then.limits[key], now.limits[key]
        found[key] = {kind: max(1.0, a.get(kind, 0.0) + b.get(kind, 0.0)) for kind in {*a, *b}}
    return found


def _refuse_fault(record: Comparison, number: int) -> None:
    if record.verdict not in _MEASURED or record.over_floor == float("inf"):
        raise _refused(
            "runs that differ from exact arithmetic by rounding alone",
            f"{record.name} of run {number}: {record.verdict.value}, {record.reason or 'beyond any floor'}",
            "Mend the calibration: same names and shapes, finite values, the same integers.",
        )


def _check_alike(honest: Contents, like: Contents) -> None:
    for name, dtype in dtypes_of(honest).items():
        wanted = dtypes_of(like).get(name, dtype)
        if dtype != wanted:
            raise _refused(f"honest runs in the dtypes of what is checked: {name} in {wanted}", dtype, "Round alike.")


def dtypes_of(contents: Contents) -> dict[str, str]:
    """The dtype of each tensor or site by name, as torch spells it."""
    if contents.trace is not None:
        return {c.name: c.dtype for c in contents.trace.captures}
    return {name: str(t.dtype).removeprefix("torch.") for name, t in (contents.tensors or {}).items()}


def _equal(a: Contents, b: Contents) -> bool:
    if a.tensors is not None and b.tensors is not None:
        return a.tensors.keys() == b.tensors.keys() and all(t.equal(b.tensors[name]) for name, t in a.tensors.items())
    if a.trace is None or b.trace is None or len(a.trace.captures) != len(b.trace.captures):
        return False
    pairs = zip(a.trace.captures, b.trace.captures, strict=True)
    return all(a.trace.tensor(x).equal(b.trace.tensor(y)) for x, y in pairs)


def _refused(expected: str, found: str, step: str) -> GoldenError:
    return GoldenError(place="calibration", expected=expected, found=found, next_step=step)
