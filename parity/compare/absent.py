"""Which rows has an engine not computed, by its own account? What it took from a prefix cache is not there to judge."""

from __future__ import annotations

from collections.abc import Mapping

from parity.records import Run


def absent_before(run: Run, request: str, stage: str) -> int:
    """The first position of a request that the run says it has computed at a stage; 0 where it says nothing.

    From `flags["absent"]`, {request: {stage, or "*" for all others: position}}: what an engine took from its prefix
    cache. A value that is no whole number says nothing.
    """
    told = run.flags.get("absent")
    of_request = told.get(request) if isinstance(told, Mapping) else None
    if not isinstance(of_request, Mapping):
        return 0
    first = of_request.get(stage, of_request.get("*", 0))
    return first if type(first) is int and first > 0 else 0
