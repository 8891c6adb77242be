"""Which site diverges first?"""

from __future__ import annotations

from parity.records import Comparison, Summary
from parity.stages import Family


def first_divergence(summary: Summary, family: Family) -> Comparison | None:
    """The faulty comparison that comes first in order of computation; None when nothing diverges.

    The order is the family graph's: of parallel branches (gate and up) the one listed first. Prefill comes before
    decode.
    It is the first site that *shows* an error; in chained mode it may have inherited a smaller one.
    """
    layers = 1 + max((c.layer for c in summary.comparisons if c.layer is not None), default=0)
    order = {(layer, stage.name): n for n, (layer, stage) in enumerate(family.sites(layers))}
    faulty = [c for c in summary.comparisons if c.verdict.faulty]
    rank = {"prefill": 0, "decode": 1}
    return min(faulty, key=lambda c: (rank.get(c.phase, 2), order.get((c.layer, c.stage), len(order))), default=None)
