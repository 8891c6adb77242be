"""Does mending a site take out of what follows just what the site had put in? Row by row, the noise being in both runs.

Both runs are the SUT's on one prompt and differ by the graft alone, so the recipe's noise is in both and cancels, until
a quantizer further down rounds otherwise. With x the SUT's run and h the healed one, y_x and y_h the oracle's, routed
as each was, and d what exact arithmetic makes, further down, of the error that the sites add on the SUT's own inputs:

    dose = sum over rows of <(x - y_x) - (h - y_h), d> / sum over rows of <d, d>

It is 1 where the graft takes out what the sites put in; 0 under the sham, and where nothing reads the tensor that was
grafted; and it has no direction to lie in, hence no value, where a site adds nothing. Whether what a site adds is an
error at all is not asked here (`Silent`).

A few tokens can carry all of it: those that an error sends to other experts. As rows they are no sample; there the
rows must move by what was put in, element for element, to within half of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.align import Aligned, align
from parity.errors import ParityError
from parity.floor.student import upper_quantile
from parity.graft.select import select_graft
from parity.ladder.departure import LEVEL
from parity.ladder.replay_graft import ReplayGraft, Site, replay_span
from parity.ladder.sweep import requests_of, routes_of
from parity.records import site_name
from parity.runner import CapturePlan, Graft
from parity.stages import Family
from parity.trace import MemoryTrace, Trace

CHOICE = "moe.topk_ids"

WEIGHTS = "moe.topk_weights"

HALF = 0.5
"""Of the dose: as far from none of it as from all of it. Of a distance to the dose too: who is nearer to it than half
its length stands within 30 degrees of it, and took out more than half of it, whatever the noise is."""


@dataclass(frozen=True)
class Dose:
    """What the graft took out at one place, in units of what the sites put in there.

    share: 1 is all of it. taken: how far it is from half, in standard errors of a regression through the origin over
    the rows, each left out of its own prediction (HC3: MacKinnon & White 1985). rows: how many it rests on, (sum of
    <d, d>)^2 over the sum of its squares. worse: how surely the rows are further from the oracle's with the graft than
    without: their sum in units of the root of their sum of squares, which a sum of symmetric, independent terms exceeds
    by chance exp(-x^2 / 2) (Hoeffding 1963, theorem 2, the signs given the sizes). signal, noise: norms of d and of
    x - y_x over that of y_x. apart: the norm of what was taken out less d, over that of d. elements: how many d rests
    on, as `rows`; a direction that has nothing to do with d is within 30 degrees of it, hence less than half apart, by
    a chance below 2^(1 - elements): a cap of that angle takes less than sin(30 degrees)^(n - 1) of a sphere in n
    dimensions.
    """

    place: str
    share: float
    taken: float
    rows: float
    worse: float
    signal: float
    noise: float
    apart: float = math.inf
    elements: float = 0.0


@dataclass(frozen=True)
class Reversal:
    """The doses at what reads the sites, at the residual leaving each layer from the first on, and at the logits.

    Chances are LEVEL over all places: Student's for `taken`, with one degree of freedom less than rows it rests on.
    obstacle: why there are none.
    """

    doses: tuple[Dose, ...] = ()
    obstacle: str = ""

    @property
    def seen(self) -> tuple[Dose, ...]:
        """The places where the graft surely took out more than half of what the sites put in, in order."""
        return tuple(dose for dose in self.doses if dose.taken >= self._least(dose) or self._is_near(dose))

    @property
    def denied(self) -> tuple[Dose, ...]:
        """The places where it surely took out less than half, or left the rows surely further from the oracle's."""
        worst = math.sqrt(2 * math.log(max(len(self.doses), 1) / LEVEL))
        return tuple(dose for dose in self.doses if dose.taken <= -self._least(dose) or dose.worse >= worst)

    def _least(self, dose: Dose) -> float:
        freedom = int(dose.rows - 1)
        return upper_quantile(LEVEL / len(self.doses), freedom) if freedom >= 1 else math.inf

    def _is_near(self, dose: Dose) -> bool:
        """Whether what was taken out is less than half apart from what was put in, and that is no chance."""
        return dose.apart < HALF and dose.elements - 1 >= math.log2(len(self.doses) / LEVEL)

    @property
    def holds(self) -> bool:
        return bool(self.seen) and not self.denied

    def line(self) -> str:
        """The same in words."""
        if self.obstacle:
            return f"what it takes out could not be measured: {self.obstacle}"
        if self.denied:
            one = self.denied[0]
            return f"at {one.place} it takes out {one.share:.2f} of what the site put in, worse by {one.worse:.3g}"
        if not self.seen:
            return "what it takes out further down drowns in the recipe's noise"
        last = self.seen[-1]
        return f"at {last.place} it takes out {last.share:.2f} of what the site put in"


def measure_reversal(
    sut: Trace,
    healed: Trace,
    *,
    oracle: Any,
    truths: tuple[Trace, Trace],
    grafts: Sequence[ReplayGraft],
    graph: Family,
) -> Reversal:
    """The doses of `grafts`, with which `healed` was run, of the first request.

    oracle: exact; it can graft and replay a recipe. truths: its traces of `sut` and of `healed`, routed as each was.

    Experts that a graft chooses are no number upon which an error lies: what the wrong choice put in is what the oracle
    makes of it, and both of its arms are then those of the healed run's choice.
    """
    chosen = any(graft.stage == CHOICE for graft in grafts)
    own = (truths[1] if chosen else truths[0], truths[1])
    try:
        added = [_shifted(sut, truths[0], oracle, graft) for graft in grafts if graft.stage != CHOICE]
        moved = truths[0]
        if added:
            moved = oracle.forward(requests_of(sut), capture=CapturePlan(), graft=[*routes_of(sut), *added])
        doses = [_dose(place, (sut, healed), own, moved) for place in _places(grafts, graph, sut)]
    except ParityError as error:
        return Reversal(obstacle=str(error))
    return Reversal(tuple(dose for dose in doses if dose is not None))


def _places(grafts: Sequence[ReplayGraft], graph: Family, sut: Trace) -> list[Site]:
    """Where it is looked: what reads a grafted stage, the residuals from the first graft on, and the logits."""
    grafted, early = {(one.layer, one.stage) for one in grafts}, {stage.name for stage in graph.prologue}
    layers = sut.run.layers
    # Of another choice alone the weights say by how much the logits part, and by that the noise of the logits.
    blurred = {(layer, WEIGHTS) for layer, stage in grafted if stage == CHOICE} - grafted
    first = min(0 if one.stage in early else layers if one.layer is None else one.layer for one in grafts)
    found: list[Site] = []
    for layer, node in graph.sites(layers):
        reads = any(graph.resolve(layer, name, layers=layers) in grafted for name in node.inputs)
        carries = node.name == graph.layer[-1].name and layer is not None and layer >= first
        if (reads or carries or node.name == "logits") and (layer, node.name) not in blurred:
            found.append((layer, node.name))
    return found


def _shifted(sut: Trace, truth: Trace, oracle: Any, graft: ReplayGraft) -> Graft:
    """The oracle's own tensor at a site, and upon it what the SUT's stage adds there on the SUT's own inputs."""
    layer, stage = graft.layer, graft.stage
    replayed = replay_span(sut, layer, graft.span, oracle=oracle, recipe=graft.recipe)
    own = sut.select(stage=stage, layer=layer)
    added = {one.number: sut.tensor(one).cpu().double() - replayed[one.number].cpu().double() for one in own}
    routed = {one.number: sut.tensor(one) for one in sut.select(stage="moe.topk_ids", layer=layer)}
    captures = [one for one in sut.captures if one.number in added or one.number in routed]
    donor = MemoryTrace(sut.run, tuple(captures), {**routed, **added})
    placed = select_graft(donor=donor, recipient=truth, layer=layer, stage=stage).graft
    exact = align(truth, stage, layer, 0)
    assert exact is not None
    rows = placed.rows
    index = [rows.position - exact.position[0]] + ([] if rows.slot is None else [rows.slot])
    at = tuple(torch.from_numpy(np.asarray(part, np.int64)) for part in index)
    return Graft(layer, stage, (exact.tensor[at].double() + placed.tensor).to(exact.tensor.dtype), rows)


def _dose(place: Site, runs: tuple[Trace, Trace], truths: tuple[Trace, Trace], moved: Trace) -> Dose | None:
    """The dose at one place; None where a side does not show it, or nothing arrives there."""
    found = [align(trace, place[1], place[0], 0) for trace in (*runs, *truths, moved)]
    held = [one for one in found if one is not None]
    if len(held) < len(found) or any(not _alike(one, held[0]) for one in held):
        return None
    if not held[0].tensor.is_floating_point():
        return None
    x, h, y_x, y_h, o = (one.tensor.cpu().double().reshape(len(one.position), -1) for one in held)
    before, after, d = x - y_x, h - y_h, o - y_x
    whole = d.square().sum(-1).numpy()
    if not whole.sum() > 0:
        return None
    dose = ((before - after) * d).sum(-1).numpy()
    fourth = float(d.square().square().sum())
    worse = (after.square().sum(-1) - before.square().sum(-1)).numpy()
    size = float(y_x.norm())
    return Dose(
        place=site_name(*place),
        share=float(dose.sum() / whole.sum()),
        taken=_from_half(dose, whole),
        rows=float(whole.sum() ** 2 / np.square(whole).sum()),
        worse=float(worse.sum() / spread) if (spread := np.sqrt(np.square(worse).sum())) > 0 else 0.0,
        signal=float(d.norm()) / size,
        noise=float(before.norm()) / size,
        apart=float((before - after - d).norm() / d.norm()),
        elements=float(whole.sum() ** 2 / fourth) if fourth > 0 else 0.0,
    )


def _alike(one: Aligned, other: Aligned) -> bool:
    """Whether both have the same rows: positions, and experts where rows belong to these."""
    if not np.array_equal(one.position, other.position) or (one.expert is None) != (other.expert is None):
        return False
    return one.expert is None or other.expert is None or np.array_equal(one.expert, other.expert)


def _from_half(dose: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    """How many standard errors the slope of `dose` over `whole` is above HALF; 0 where one row is all of it."""
    slope, leverage = dose.sum() / whole.sum(), whole / whole.sum()
    if leverage.max() >= 1:
        return 0.0
    error = float(np.sqrt(np.square((dose - slope * whole) / (1 - leverage)).sum()) / whole.sum())
    above = float(slope) - HALF
    return above / error if error > 0 else math.copysign(math.inf, above)
