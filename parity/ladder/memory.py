"""Do lost rows hold what the buffer was cleared to, or what somebody left there? Only history and poison can tell.

A row that was never written looks like zeros where the buffer was cleared, and also where it was merely fresh; whether
it shows earlier work depends on what ran before. The error field of one run cannot say which; the invariances can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.fingerprint.causes import NEVER_WRITTEN, ROWS_STALE, ROWS_UNWRITTEN, STALE
from parity.invariance import Invariance, Outcome
from parity.records import Finding

STALE_FORM = {NEVER_WRITTEN: STALE, ROWS_UNWRITTEN: ROWS_STALE}


def settle_memory(finding: Finding, invariances: Sequence[Invariance]) -> Finding:
    """The finding with its rows called stale where another request's run before shows in them.

    invariances: of the same engine; of them `history` decides. Any other finding comes back as it is.
    """
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
