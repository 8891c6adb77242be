"""Where does the error arise, in which slice, and what shape has it? From isolated comparisons to one finding."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from parity.fingerprint import Fingerprint
from parity.fingerprint.causes import CHUNK_BOUNDARY, NONFINITE, ROWS_STALE
from parity.floor import Floor
from parity.invariance import Coverage
from parity.invariance.coverage import BY_ROW
from parity.ladder.narrow import joined_slice, narrowest_slice
from parity.ladder.reading import read_site
from parity.ladder.replay import Replay
from parity.records import Comparison, Finding, Slice, Summary, Verdict

SHAPES_OF_GARBAGE = (CHUNK_BOUNDARY, NONFINITE, ROWS_STALE)
"""Causes that say no more than where the error begins, or that it is wild: where a launch ends there, that is why."""

UNTESTED = (
    "prompt and sampler: not compared on this rung",
    "faults that show in decode only: the prompt alone was captured",
)
"""What one capture of a prompt cannot rule out."""


def locate(
    replay: Replay, *, floor: Floor, chained: Summary, isolated: Summary, coverage: Sequence[Coverage]
) -> Finding:
    """The finding that follows from one capture.

    The stage found is the first, in order of computation, that adds error of its own on the SUT's inputs; its layers
    are all in which it does. `clean` needs every comparison cleared and every launch to reach its work; what is neither
    a fault nor clean (something could not be judged) is `unresolved`.
    """
    added = _added(isolated)
    if added:
        return _fault(replay, floor, added, coverage)
    open_ends = [record for record in (*chained.comparisons, *isolated.comparisons) if not record.verdict.healthy]
    short = [launch for launch in coverage if launch.truncated]
    if not open_ends and not short:
        return Finding(
            verdict="clean",
            rung="isolated replay",
            sentence=f"Every stage {'that the engine shows ' if chained.unobservable else ''}of the prompt's prefill "
            "lies within its floor, alone and chained, and every launch reaches its work.",
            over_floor=max(s.worst_over_floor or 0.0 for s in (chained, isolated)),
            not_excluded=(*UNTESTED, *_unjudged(chained, isolated), *unseen(chained)),
        )
    reasons = [f"{record.name} ({record.mode}): {record.verdict.value}, {record.reason}" for record in open_ends]
    return Finding(
        verdict="unresolved",
        rung="isolated replay",
        sentence="No stage adds error of its own, yet not everything is cleared.",
        evidence={"open": [*reasons, *(launch.line() for launch in short)]},
        not_excluded=UNTESTED,
    )


def _unjudged(*summaries: Summary) -> tuple[str, ...]:
    """What no floor covered, in words; empty when every slice was judged."""
    count = sum(record.unjudged for summary in summaries for record in summary.comparisons)
    return (
        (f"{count} slices of a size or position without a floor: their rows were judged, they were not",)
        if count
        else ()
    )


def unseen(summary: Summary) -> tuple[str, ...]:
    """Stages that the engine cannot show, in words; empty when it shows all."""
    return tuple(f"{stage} by itself, which is not shown: {why}" for stage, why in summary.unobservable.items())


def _added(isolated: Summary) -> list[Comparison]:
    """What adds error, in order of computation. Of nonfinite sites the first alone: a NaN spreads to all that read it,
    and no replay on nonfinite inputs tells what was added to it."""
    shown = (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE)
    faulty = [record for record in isolated.comparisons if record.verdict in shown]
    spread = [record for record in faulty if record.verdict is Verdict.NONFINITE][1:]
    return [record for record in faulty if record not in spread]


def _fault(replay: Replay, floor: Floor, added: Sequence[Comparison], coverage: Sequence[Coverage]) -> Finding:
    stage = added[0].stage
    here = [record for record in added if record.stage == stage]
    layers = tuple(dict.fromkeys(record.layer for record in here if record.layer is not None))
    sites = {record.layer: replay.emulate(replay.site(record.layer, stage), floor.recipe.name) for record in here}
    prints = {layer: read_site(replay, site) for layer, site in sites.items()}
    slices = [
        found[0].slice if (found := prints[record.layer]) else narrowest_slice(sites[record.layer], record, floor)
        for record in here
    ]
    by_layer = [
        _of_layer(record, next(iter(prints[record.layer]), None), where, coverage)
        for record, where in zip(here, slices, strict=True)
    ]
    causes = _ranked_causes(list(prints.values()))
    cut = _cut_short(stage, prints, coverage)
    said = ""
    if cut is not None and causes and causes[0] in SHAPES_OF_GARBAGE:
        causes = [ROWS_STALE, *(cause for cause in causes if cause != ROWS_STALE)]
        said = (
            f" {cut.line()}, and the error begins at position {cut.covered}: nothing was written from there on, and "
            "what is read is neither zeros nor this run's."
        )
    others: dict[str, list[int]] = defaultdict(list)
    for record in added:
        if record.stage != stage and record.layer is not None:
            others[record.stage].append(record.layer)
    return Finding(
        verdict="fault",
        rung="isolated replay",
        layers=layers,
        stage=stage,
        slice=joined_slice(slices),
        cause=causes[0] if causes else None,
        sentence=_sentence(stage, layers, causes, others) + said,
        over_floor=max((record.over_floor for record in here if record.over_floor is not None), default=None),
        evidence={
            "by_layer": by_layer,
            "also_adds_error": dict(others),
            "launches": [launch.line() for launch in coverage if launch.truncated],
        },
        alternatives=tuple(causes[1:]),
        not_excluded=UNTESTED,
    )


def _cut_short(
    stage: str, prints: Mapping[int | None, tuple[Fingerprint, ...]], coverage: Sequence[Coverage]
) -> Coverage | None:
    """The launch at one of these sites that ends at the very row at which the error begins; None without one."""
    begins = {
        layer: {one.slice.positions[0] for one in found if one.slice.positions is not None}
        for layer, found in prints.items()
    }
    by_row = (c for c in coverage if c.truncated and not c.loads and c.extent.rpartition(".")[2] in BY_ROW)
    return next((c for c in by_row if c.stage == stage and c.covered in begins.get(c.layer, ())), None)


def _ranked_causes(prints: Sequence[tuple[Fingerprint, ...]]) -> list[str]:
    """Causes of all layers: first what stands first in most of them, then by the best score that each has anywhere."""
    firsts = Counter(found[0].cause for found in prints if found)
    best: dict[str, float] = {}
    for found in prints:
        for one in found:
            best[one.cause] = max(best.get(one.cause, 0.0), one.score)
    return sorted(best, key=lambda cause: (-firsts[cause], -best[cause]))


def _of_layer(
    record: Comparison, fingerprint: Fingerprint | None, where: Slice, coverage: Sequence[Coverage]
) -> dict[str, Any]:
    """One layer's share of the finding: its slice, its numbers, its launch."""
    launches = [c for c in coverage if (c.layer, c.stage) == (record.layer, record.stage)]
    launch = next((c for c in launches if c.truncated), launches[0] if launches else None)
    worst = record.worst[0] if record.worst else None
    sentence = fingerprint.sentence if fingerprint else record.reason
    return {
        "layer": record.layer,
        "over_floor": record.over_floor,
        "over_gates": dict(record.over_gates),
        "worst_slice": worst.where if worst else None,
        "sentence": sentence,
        "slice": where,
        "numbers": fingerprint.numbers if fingerprint else {},
        "launch": launch.line() if launch else None,
    }


def _sentence(stage: str, layers: Sequence[int], causes: Sequence[str], others: dict[str, list[int]]) -> str:
    where = f"{stage} of layer{'s' if len(layers) != 1 else ''} {', '.join(map(str, layers))}" if layers else stage
    what = f": {causes[0]}" if causes else ", of a shape that no detector knows"
    also = f" Error of their own also at {', '.join(others)}." if others else ""
    return f"The first stage that adds error is {where}{what}.{also}"
