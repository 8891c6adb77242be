"""Which rows of a site meet, block by block, when all of them at once would not fit?"""

from __future__ import annotations

from collections.abc import Iterator

from parity.compare.ranges import position_blocks
from parity.compare.sites import SitePair, TracePair


def site_blocks(pair: TracePair, layer: int | None, stage: str) -> Iterator[tuple[tuple[int, int], SitePair]]:
    """(the range of positions, its paired rows), block by block; without parts where no position is in common."""
    for between in position_blocks((pair.oracle, pair.sut), layer, stage):
        parts, unpaired, axes = [], 0, ()
        for number in range(len(pair.requests)):
            a, b = pair.aligned(layer, stage, number, between)
            if a is None or b is None:
                unpaired += sum(len(one.position) for one in (a, b) if one is not None)
                continue
            axes = b.axes
            part, alone = pair.part(number, a, b)
            unpaired += alone
            if part is not None:
                parts.append(part)
        yield between, SitePair(parts, axes, unpaired)
