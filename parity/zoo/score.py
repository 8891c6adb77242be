"""Is a finding right? The rule of docs/zoo.md, from a finding and the truth of what was planted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from parity.errors import UsageError
from parity.faults import Fault
from parity.records import Finding, Power, Site, Slice
from parity.stages import family
from parity.zoo.accepted import accepted_places


@dataclass(frozen=True)
class Score:
    """The columns of the table. sliced: None where the truth names no slice; proved: None where it names no stage.

    cause_listed: the cause is among the alternatives, which does not count as named.
    """

    detected: bool = False
    localized: bool = False
    sliced: bool | None = None
    cause_named: bool = False
    cause_listed: bool = False
    proved: bool | None = None


def accuses(finding: Finding | None) -> bool:
    """Whether a finding says that something is wrong: a fault, or a run whose numbers must not be used."""
    return finding is not None and finding.verdict in ("fault", "refused")


def score_finding(finding: Finding | None, fault: Fault, *, stages: Collection[str], layers: int) -> Score:
    """Judge what was found of a planted fault; None: the investigation did not end.

    stages: those that the engine shows; layers: how many it has. Raises UsageError for a control: it has no truth.
    """
    if fault.control:
        raise UsageError(
            place=f"score of {fault.name}",
            expected="a fault with a truth",
            found="a negative control",
            next_step="Of a control only ask whether it was accused.",
        )
    sites = _sites(fault)
    nothing = Score(sliced=False if _has_slice(sites) else None, proved=False if sites else None)
    if finding is None or not accuses(finding):
        return nothing
    right = [site for site in sites if _names(finding, site, fault.family, stages, layers)]
    united = _names_together(finding, sites, fault.family, stages, layers)
    return Score(
        detected=True,
        localized=bool(right) or united or _names_rung(finding, fault.rung),
        sliced=any(within_slice(finding.slice, site.slice) for site in right) if _has_slice(sites) else None,
        cause_named=finding.cause is not None and finding.cause == fault.cause,
        cause_listed=fault.cause in finding.alternatives,
        proved=bool(finding.proof.get("proved")) if sites else None,
    )


def within_slice(found: Slice, truth: Slice) -> bool:
    """Whether a slice names at least one of the axes that the truth names, and nothing outside it on any of them."""
    named = []
    for axis in (field.name for field in fields(Slice)):
        true, said = getattr(truth, axis), getattr(found, axis)
        if true is None or said is None:
            continue
        inside = (
            true[0] <= said[0] and said[1] <= true[1] if axis in ("columns", "positions") else set(said) <= set(true)
        )
        named.append(inside)
    return bool(named) and all(named)


def below_power(fault: Fault, power: Sequence[Power]) -> bool:
    """Whether the floor is on record as too coarse for a fault of this strength.

    Judged for faults that state a `ratio` in their details, by the power record of a `scale` planted in the same stage
    and kind of slice: below the weakest that any of its gates sees. Without a record nothing is below.
    """
    ratio, site = fault.details.get("ratio"), fault.truth
    if not isinstance(ratio, (int, float)) or site is None:
        return False
    kind = "head" if site.slice.heads else "expert" if site.slice.experts else "tensor"
    seen = [
        one.strength if one.strength is not None else float("inf")
        for one in power
        if (one.stage, one.kind, one.damage) == (site.stage, kind, "scale")
    ]
    return bool(seen) and abs(ratio - 1) < min(seen)


def _sites(fault: Fault) -> list[Site]:
    return [site for site in (fault.truth, *fault.also) if site is not None]


def _has_slice(sites: Sequence[Site]) -> bool:
    return any(site.slice != Slice() for site in sites)


def _names(finding: Finding, site: Site, graph: str, stages: Collection[str], layers: int) -> bool:
    return _names_together(finding, [site], graph, stages, layers)


def _names_together(finding: Finding, sites: Sequence[Site], graph: str, stages: Collection[str], layers: int) -> bool:
    if finding.stage is None:
        return False
    accepted = set().union(
        *(accepted_places(site, graph=family(graph), layers=layers, captured=stages) for site in sites)
    )
    return {(layer, finding.stage) for layer in finding.layers or (None,)} <= accepted


def _names_rung(finding: Finding, rung: str | None) -> bool:
    return rung is not None and rung in finding.rung.replace(",", " ").split()
