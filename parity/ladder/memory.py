"""Do lost rows hold what the buffer was cleared to, or what somebody left there? Only history and poison can tell.

A row that was never written looks like zeros where the buffer was cleared, and also where it was merely fresh; whether
it shows earlier work depends on what ran before; and where the buffer held another tensor the row has some other shape.
The error field of one run cannot say which; the invariances can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.fingerprint.causes import NEVER_WRITTEN, ROWS_STALE, ROWS_UNWRITTEN, STALE
from parity.invariance import Invariance, Outcome
from parity.records import Finding, Site

STALE_FORM = {NEVER_WRITTEN: STALE, ROWS_UNWRITTEN: ROWS_STALE}


def settle_memory(finding: Finding, invariances: Sequence[Invariance]) -> Finding:
    """The finding with its rows called unwritten where they keep a poison, stale where a run before shows in them.

    invariances: of the same engine; of them `poison` and `history` decide. Any other finding comes back as it is.
    """
    finding = _unwritten(finding, invariances)
    stale = STALE_FORM.get(finding.cause or "")
    broken = next((one for one in invariances if one.name == "history" and one.outcome is Outcome.BROKEN), None)
    if stale is None or broken is None or broken.site is None or broken.site.stage != finding.stage:
        return finding
    return replace(
        finding,
        cause=stale,
        sentence=f"{finding.sentence} What ran before shows in these rows: {broken.sentence}",
        alternatives=tuple(dict.fromkeys((finding.cause or "", *finding.alternatives))),
    )


def _unwritten(finding: Finding, invariances: Sequence[Invariance]) -> Finding:
    """Rows that come out of their launch as the poison went in were not written, whatever shape the error has when the
    buffer holds something else."""
    if finding.cause in {*STALE_FORM, *STALE_FORM.values()}:
        return finding
    poisoned = [one for one in invariances if one.name == "poison" and one.outcome is Outcome.BROKEN]
    rows = sum(one.numbers.get("unwritten_rows", 0) for one in poisoned if _is_at(one.site, finding))
    if not rows:
        return finding
    said = f"{rows} rows are never written: filled before the launch, they come out as they were."
    others = (*((finding.cause,) if finding.cause else ()), *finding.alternatives)
    return replace(
        finding,
        cause=ROWS_UNWRITTEN,
        sentence=f"{finding.sentence} {said}",
        alternatives=tuple(dict.fromkeys(others)),
    )


def _is_at(site: Site | None, finding: Finding) -> bool:
    return site is not None and site.stage == finding.stage and set(site.layers) <= set(finding.layers)
