"""What does the error field of a replayed site say? Every fingerprint of it, the best explanation first."""

from __future__ import annotations

import dataclasses

from parity.fingerprint import ErrorField, Fingerprint, read_fingerprints
from parity.ladder.replay import Replay, ReplayedSite
from parity.ladder.suspects import related_tensors

EXPLAINED = 0.99
"""Share of an error at which nothing else is looked for: 1 % of it is FP8 noise, 0.03 to 0.1 of the norm, squared."""


def read_site(replay: Replay, site: ReplayedSite) -> tuple[Fingerprint, ...]:
    """Fingerprints of a stage's isolated error; empty with an obstacle, or where no detector knows the shape.

    The error is that against the recipe's emulation where the site has one: it shares the recipe's roundings, so that
    a fault of half a percent is most of the field and not a tenth of it. Other buffers are tried only where the field
    by itself is not explained: each costs a replay.
    """
    if site.sut is None or site.oracle is None:
        return ()
    healthy = site.oracle if site.emulated is None else site.emulated
    if healthy.shape != site.oracle.shape or healthy.is_floating_point() != site.oracle.is_floating_point():
        healthy = site.oracle
    alone = dataclasses.replace(
        ErrorField.of(site.sut, healthy, inputs=site.inputs, hyper=replay.trace.run.hyper), exact=site.oracle
    )
    found = read_fingerprints(alone)
    if not found or found[0].score < EXPLAINED:
        related = related_tensors(replay, site)
        found = read_fingerprints(dataclasses.replace(alone, related=related)) if related else found
    return found
