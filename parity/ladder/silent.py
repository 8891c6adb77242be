"""Is a fault that no chained floor sees made where it is said to be? What its grafts must do in place of a symptom.

An error below every chained floor leaves no excess whose going could be watched. What can be shown is that the site
adds an error on inputs that are not the SUT's, that it is an error and no other order of sums, that nothing else adds
one once it is mended, and that mending it takes that error out of what follows. Not that the fault matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parity.floor import Floor
from parity.ladder.departure import find_departure
from parity.ladder.replay import Replay
from parity.ladder.replay_graft import ReplayGraft, Site, replay_span
from parity.ladder.reversal import CHOICE, HALF, Reversal
from parity.records import Comparison, Summary, Verdict, site_name
from parity.trace import Trace

MARGIN = 2.0
"""Times its isolated gate that the added error must reach where no chained floor sees it. The worst of 200 held-out
clean runs stood at 1.17 of its gate; a scale error of 1.005 in one expert at 9. What lies between may be an order of
sums that the emulation does not have, and is not proved."""


@dataclass(frozen=True)
class Silent:
    """What is asked of the grafts where no chained floor sees the fault. All of it must hold, besides the sham.

    added: by site, the isolated score with the oracle's inputs: over MARGIN at every site of the first stage.
    direction: by site, why that is error and not another order of sums: how its rows left the emulation's (see
        `departure.py`), or that the gate against exact arithmetic itself is exceeded by MARGIN; None for neither.
    healed: by site, the isolated score in the healed run: within its gates. Of a site inside a kernel, where its graft
        goes: the share of its error that is left there, in units of HALF.
    adding: sites that still add error of their own in the healed run: none.
    raised: sites over their chained floor with the grafts only: none.
    reversal: mending the site takes out of what follows what the site had put in (see `reversal.py`).
    changed: logits that the grafts changed: some.
    """

    added: dict[str, float | None]
    direction: dict[str, str | None]
    healed: dict[str, float | None]
    adding: tuple[str, ...]
    raised: tuple[str, ...]
    reversal: Reversal
    changed: int

    @property
    def holds(self) -> bool:
        sure = all(score is not None and score > MARGIN for score in self.added.values())
        error = all(words is not None for words in self.direction.values())
        healed = all(score is None or score <= 1 for score in self.healed.values())
        clean = not self.adding and not self.raised and self.changed > 0
        return bool(self.added) and sure and error and healed and clean and self.reversal.holds


def direction_of(replay: Replay, site: Site, records: Sequence[Comparison], floor: Floor) -> str | None:
    """Why the error that a site adds is no other order of sums; see `Silent.direction`."""
    exceeded = max((record.over_gates.get("error", 0.0) for record in records), default=0.0)
    if exceeded > MARGIN:
        return f"{exceeded:.3g} times the gate against exact arithmetic"
    departure = find_departure(replay.emulate(replay.site(*site), floor.recipe.name))
    return None if departure is None else str(departure)


def scores_at(isolated: Summary, sites: Sequence[Site]) -> dict[str, float | None]:
    """By site, its isolated score; infinite where it was not compared or holds nonfinite values."""
    found: dict[str, float | None] = {}
    for record in isolated.comparisons:
        if (record.layer, record.stage) in sites:
            score = record.over_floor if record.verdict.healthy or record.over_floor is not None else float("inf")
            found[record.name] = max(score or 0.0, found.get(record.name) or 0.0)
    return found


def shares_left(sut: Trace, healed: Trace, *, oracle: Any, grafts: Sequence[ReplayGraft]) -> dict[str, float | None]:
    """By stage that a graft replaces for stages inside its kernel: the error left there, in units of HALF of what was.

    What the engine shows of those inside is its own value still, so that replaying from it says nothing of the graft:
    the error is that against the recipe's replay of the whole span, of the first request. A choice of experts is left
    to the weights that go with it, which come from the same logits.
    """
    found: dict[str, float | None] = {}
    for graft in grafts:
        if len(graft.span) < 2 or graft.stage == CHOICE:
            continue
        before, after = (_error_of_span(trace, graft, oracle) for trace in (sut, healed))
        left = after / before if before > 0 else math.inf if after > 0 else 0.0
        found[site_name(graft.layer, graft.stage)] = left / HALF
    return found


def _error_of_span(trace: Trace, graft: ReplayGraft, oracle: Any) -> float:
    """The norm of what the trace holds at a graft's stage less what the recipe makes of its span."""
    replayed = replay_span(trace, graft.layer, graft.span, oracle=oracle, recipe=graft.recipe)
    own = trace.select(stage=graft.stage, layer=graft.layer)
    apart = (trace.tensor(one).cpu().double() - replayed[one.number].double() for one in own)
    return math.sqrt(sum(float(one.square().sum()) for one in apart))


def raised_sites(before: Summary, after: Summary) -> tuple[str, ...]:
    """Sites over their chained floor with the grafts and not without."""
    bad = (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE)
    over = {(record.name, record.phase) for record in before.comparisons if record.verdict in bad}
    found = (r for r in after.comparisons if r.verdict in bad and (r.name, r.phase) not in over)
    return tuple(record.name for record in found)
