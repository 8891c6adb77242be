"""Where does the error arise, in which slice, and what shape has it? From isolated comparisons to one finding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.align import Aligned
from parity.compare import measure_aligned, over_floor_by_kind
from parity.fingerprint import Fingerprint, detect_tile_edge
from parity.floor import Floor
from parity.invariance import Coverage
from parity.ladder.replay import Replay
from parity.metrics.slices import COLUMN_BLOCK
from parity.records import Comparison, Finding, Slice, Summary, Verdict
from parity.stages import term

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
            sentence="Every stage of the prompt's prefill lies within its floor, alone and chained, and every launch "
            "reaches its work.",
            over_floor=max(s.worst_over_floor or 0.0 for s in (chained, isolated)),
            not_excluded=(*UNTESTED, *_unjudged(chained, isolated)),
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
    prints = {record.layer: _fingerprint(replay, record.layer, stage) for record in here}
    by_layer = [_of_layer(replay, floor, record, prints[record.layer], coverage) for record in here]
    found = [fingerprint for fingerprint in prints.values() if fingerprint is not None]
    causes = list(dict.fromkeys(fingerprint.cause for fingerprint in found))
    others: dict[str, list[int]] = defaultdict(list)
    for record in added:
        if record.stage != stage and record.layer is not None:
            others[record.stage].append(record.layer)
    return Finding(
        verdict="fault",
        rung="isolated replay",
        layers=layers,
        stage=stage,
        slice=_union([row["slice"] for row in by_layer]),
        cause=causes[0] if causes else None,
        sentence=_sentence(stage, layers, causes, others),
        over_floor=max((record.over_floor for record in here if record.over_floor is not None), default=None),
        evidence={
            "by_layer": by_layer,
            "also_adds_error": dict(others),
            "launches": [launch.line() for launch in coverage if launch.truncated],
        },
        alternatives=tuple(causes[1:]),
        not_excluded=UNTESTED,
    )


def _fingerprint(replay: Replay, layer: int | None, stage: str) -> Fingerprint | None:
    """What the shape of the stage's error field says; None when no detector knows it."""
    site = replay.site(layer, stage)
    if site.sut is None or site.oracle is None or site.sut.expert is None or site.sut.row_in_expert is None:
        return None
    return detect_tile_edge(
        oracle=site.oracle,
        sut=site.sut.tensor,
        expert=site.sut.expert,
        row_in_expert=site.sut.row_in_expert,
        launch=site.sut.launch,
        tile_m=site.sut.tile_m,
    )


def _of_layer(
    replay: Replay, floor: Floor, record: Comparison, fingerprint: Fingerprint | None, coverage: Sequence[Coverage]
) -> dict[str, Any]:
    """One layer's share of the finding: its slice, its numbers, its launch."""
    launch = next((c for c in coverage if (c.layer, c.stage) == (record.layer, record.stage)), None)
    worst = record.worst[0] if record.worst else None
    sentence = fingerprint.sentence if fingerprint else record.reason
    return {
        "layer": record.layer,
        "over_floor": record.over_floor,
        "worst_slice": worst.where if worst else None,
        "sentence": sentence,
        "slice": fingerprint.slice if fingerprint else _narrowest_slice(replay, record, floor),
        "numbers": fingerprint.numbers if fingerprint else {},
        "launch": launch.line() if launch else None,
    }


def _narrowest_slice(replay: Replay, record: Comparison, floor: Floor) -> Slice:
    """The slices over their gate, of the kind that narrows the fault down most.

    A fault in one head shows in every row, a lost row in its expert as well: of the kinds in question, the one of whose
    slices the smallest share is over. In question are those whose worst slice is over its gate by at least half the
    orders of magnitude of the worst of all; a few rows just over theirs do not explain an expert far over its own.
    """
    site = replay.site(record.layer, record.stage)
    if site.sut is None or site.oracle is None or term(record.stage).values == "ids":
        return Slice()
    best: tuple[float, str, list[int]] | None = None
    for measured in measure_aligned(oracle=site.oracle, sut=site.sut):
        if measured.phase != record.phase or not np.isfinite(record.over_floor or np.nan):
            continue
        sizes = {kind: table.index for kind, table in measured.tables}
        for kind, (_, over) in over_floor_by_kind(measured, floor, "isolated").items():
            exceeding = np.flatnonzero(np.nan_to_num(over, nan=0.0) > 1)
            if len(exceeding) and over[exceeding].max() >= np.sqrt(record.over_floor or 0.0):
                share = len(exceeding) / len(over)
                if best is None or share < best[0]:
                    best = share, kind, sizes[kind][exceeding].tolist()
    return Slice() if best is None else _as_slice(best[1], best[2], site.sut)


def _as_slice(kind: str, index: list[int], sut: Aligned) -> Slice:
    """Slice numbers of a kind as a record; the whole tensor is a slice without limits."""
    if kind == "head":
        return Slice(heads=tuple(index))
    if kind == "expert":
        return Slice(experts=tuple(index))
    if kind == "columns":
        return Slice(columns=(index[0] * COLUMN_BLOCK, (index[-1] + 1) * COLUMN_BLOCK))
    if kind != "row":
        return Slice()
    token, slot = np.divmod(np.array(index), sut.slots or 1)
    where = (int(sut.position[token].min()), int(sut.position[token].max()) + 1)
    if sut.expert is None or sut.row_in_expert is None:
        return Slice(positions=where)
    number = sut.row_in_expert[token, slot]
    rows = tuple(sorted({int(n) for n in number})) if (number >= 0).all() else None
    return Slice(experts=tuple(sorted({int(e) for e in sut.expert[token, slot]})), rows=rows, positions=where)


def _union(slices: Sequence[Slice]) -> Slice:
    """Everything that any of the slices names: numbers together, ranges as the one that spans them."""

    def joined(name: str) -> tuple[int, ...] | None:
        values = sorted({value for one in slices for value in getattr(one, name) or ()})
        return tuple(values) or None

    def spanned(name: str) -> tuple[int, int] | None:
        values = joined(name)
        return None if values is None else (values[0], values[-1])

    return Slice(joined("heads"), joined("experts"), joined("rows"), spanned("columns"), spanned("positions"))


def _sentence(stage: str, layers: Sequence[int], causes: Sequence[str], others: dict[str, list[int]]) -> str:
    where = f"{stage} of layer{'s' if len(layers) != 1 else ''} {', '.join(map(str, layers))}" if layers else stage
    what = f": {causes[0]}" if causes else ", of a shape that no detector knows"
    also = f" Error of their own also at {', '.join(others)}." if others else ""
    return f"The first stage that adds error is {where}{what}.{also}"
