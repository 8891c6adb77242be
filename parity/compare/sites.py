"""Which rows of two traces meet at each site, in which order of experts, and which of them stand apart?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from parity.align import Aligned, Routing, align, pair_requests, pair_rows, route
from parity.compare.absent import absent_before
from parity.compare.labels import RowLabels, label_rows
from parity.compare.marks import Marks
from parity.compare.ranges import position_blocks
from parity.compare.routes import LOGITS, STAGE, excused, margin_floor
from parity.errors import ConfigError, TraceError
from parity.floor import NoiseFloor
from parity.records import Capture, Comparison, Verdict, site_name
from parity.stages import Family, family
from parity.trace import Trace


@dataclass(frozen=True)
class Routes:
    """The routing of one request in one layer. position, phase: [T], of the paired tokens; excused: [T]."""

    routing: Routing
    position: NDArray[np.int64]
    phase: NDArray[np.str_]
    excused: NDArray[np.bool_]
    request: str

    def of(self, position: NDArray[np.int64]) -> Routing | None:
        """The routing of the tokens at these positions, None when one of them is not known."""
        if np.array_equal(self.position, position):
            return self.routing
        at = np.searchsorted(self.position, position)
        if (at == len(self.position)).any() or not np.array_equal(self.position[at], position):
            return None
        return Routing.join([(self.routing, at)])


@dataclass(frozen=True)
class SitePair:
    """One site's paired rows. parts: (oracle, sut, labels) by request; axes: canonical. unpaired: rows of either side
    whose position the other side does not have. reason: why there are no parts, where there are none."""

    parts: list[tuple[torch.Tensor, torch.Tensor, RowLabels]]
    axes: tuple[str, ...]
    unpaired: int = 0


@dataclass
class TracePair:
    """Two traces that may be compared. `floor` decides which router flips are excused; without one all are.

    Raises TraceError, at once, for other token ids or an unrelated checkpoint.
    """

    oracle: Trace
    sut: Trace
    floor: NoiseFloor | None
    mode: str
    same_model_because: str | None = None
    allow_grafts: bool = False
    requests: list[tuple[int, int]] = field(init=False)
    family: Family = field(init=False)
    _routes: dict[tuple[int, tuple[int, int] | None], list[Routes | None]] = field(default_factory=dict)
    _route_blocks: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _flips: dict[int, list[Marks]] = field(default_factory=dict)
    _reach: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.requests = pair_requests(
            oracle=self.oracle.run,
            sut=self.sut.run,
            same_model_because=self.same_model_because,
            allow_grafts=self.allow_grafts,
        )
        try:
            self.family = family(self.sut.run.family)
        except ConfigError:
            # A module that was watched has no stage graph: its sites stand in the order in which they were captured.
            self.family = Family(self.sut.run.family, (), (), ())

    def phases(self) -> tuple[str, ...]:
        """Phases of the SUT's captures, prefill first."""
        found = {capture.phase for capture in self.sut.captures}
        return tuple(phase for phase in ("prefill", "decode") if phase in found) or ("prefill",)

    def oracle_reaches(self, layer: int | None, stage: str, phase: str) -> bool:
        """Does the oracle hold a row of the site where the SUT's run was in that phase?

        The SUT's captures say where: the oracle may have computed the same positions in another phase.
        """
        if phase not in self._reach:
            self._reach[phase] = _ends(capture for capture in self.sut.captures if capture.phase == phase)
        ends = self._reach[phase]
        for of_oracle, of_sut in self.requests:
            low, high = ends.get(of_sut, (0, -1))
            for capture in self.oracle.select(stage=stage, layer=layer):
                at = capture.rows.position[capture.rows.request == of_oracle]
                if ((at >= low) & (at <= high)).any():
                    return True
        return False

    def absent(self, stage: str) -> int:
        """How many positions of all requests the SUT says it has not computed at a stage."""
        run = self.sut.run
        return sum(
            min(absent_before(run, name, stage), len(ids))
            for name, ids in zip(run.request_names, run.requests, strict=True)
        )

    def declared(self) -> list[tuple[int | None, str]]:
        """Sites that either side declared or captured, in the order in which they are computed; but for those that the
        other side says it cannot show."""
        sides = (self.oracle, self.sut)
        own = [{*side.run.declared, *((c.layer, c.stage) for c in side.captures)} for side in sides]
        sites = {
            site
            for mine, others, other in ((own[0], own[1], self.sut), (own[1], own[0], self.oracle))
            for site in mine
            if site in others or site[1] not in other.run.unobservable
        }
        graph = [(at, stage.name) for at, stage in self.family.sites(self.sut.run.layers)]
        if not graph:
            graph = list(dict.fromkeys((c.layer, c.stage) for side in (self.sut, self.oracle) for c in side.captures))
        order = {site: n for n, site in enumerate(graph)}
        last = len(order)
        return sorted(sites, key=lambda s: (order.get(s, last), -1 if s[0] is None else s[0], s[1]))

    def unobservable(self, sites: Sequence[tuple[int | None, str]]) -> dict[str, str]:
        """Stages that a side says it cannot show, with its reason, but for those of `sites`."""
        compared = {stage for _, stage in sites}
        said = {**self.oracle.run.hidden, **self.sut.run.hidden}
        return {stage: why for stage, why in said.items() if stage not in compared}

    def site(self, layer: int | None, stage: str) -> SitePair | Comparison:
        """The paired rows of a site, or a comparison record saying why there are none."""
        pairs = [self.aligned(layer, stage, n) for n in range(len(self.requests))]
        for side, verdict in ((1, Verdict.MISSING_IN_SUT), (0, Verdict.MISSING_IN_ORACLE)):
            if all(pair[side] is None for pair in pairs):
                elsewhere = any(pair[1 - side] is not None for pair in pairs)
                other = "the other side has it" if elsewhere else "nor by the other side"
                who = "SUT" if side else "oracle"
                return self._record(layer, stage, verdict, f"declared, but not captured by the {who} ({other})")
        parts, unpaired, axes = [], 0, ()
        for number, (a, b) in enumerate(pairs):
            if a is None or b is None:
                unpaired += sum(len(one.position) for one in (a, b) if one is not None)
                continue
            if a.axes != b.axes or (a.expert is not None and b.expert is not None and a.slots != b.slots):
                shapes = [f"{' '.join(one.axes)} {list(one.tensor.shape)}" for one in (a, b)]
                reason = f"expected one layout; found oracle {shapes[0]}, sut {shapes[1]}"
                return self._record(layer, stage, Verdict.SHAPE_MISMATCH, reason)
            axes = b.axes
            part, alone = self.part(number, a, b)
            unpaired += alone
            if part is not None:
                parts.append(part)
        if not parts:
            return self._record(layer, stage, Verdict.NOT_COMPARED, f"no position in common ({unpaired} rows unpaired)")
        return SitePair(parts, axes, unpaired)

    def unlike(self, layer: int | None, stage: str) -> Comparison | None:
        """The record of a site whose captures are of another model or basis on each side; None where they meet."""
        for key, what in (("model", "one model's captures on both sides"), ("basis", "one basis on both sides")):
            told = [
                _words(getattr(c, key) for c in side.select(stage=stage, layer=layer))
                for side in (self.oracle, self.sut)
            ]
            if all(told) and told[0] != told[1]:
                error = TraceError(
                    place=f"{key} of {site_name(layer, stage)}",
                    expected=what,
                    found=f"oracle {told[0]}, sut {told[1]}",
                    next_step="Capture the same model's tensors in the same basis on both sides.",
                )
                return self._record(layer, stage, Verdict.NOT_COMPARED, str(error))
        return None

    def notes(self) -> tuple[str, ...]:
        """What a reader of the comparison has to know of the two runs."""
        a, b = self.oracle.run, self.sut.run
        said = []
        if a.family != b.family:
            said.append(
                f"families differ, {a.family!r} and {b.family!r}: stages were paired by name, in the order of "
                f"{b.family!r}"
            )
        if a.lineage.root != b.lineage.root:
            said.append(f"checkpoints without a common root, {a.lineage.root} and {b.lineage.root}")
        if said:
            said.append(f"the same model because: {self.same_model_because}")
        return tuple(said)

    def routes(self, layer: int, between: tuple[int, int] | None = None) -> list[Routes | None]:
        """The routing of every request in a layer, of all positions or of those from `between[0]` to before
        `between[1]`; None where a side has no ids there or its top-k differs.

        Kept for what was asked for last; of others only the flips.
        """
        key = layer, between
        if key not in self._routes:
            found = [self._route(layer, n, between) for n in range(len(self.requests))]
            self._routes.clear()
            self._routes[key] = found
        return self._routes[key]

    def route_blocks(self, layer: int) -> list[tuple[int, int]]:
        """Ranges of positions in which the routing of a layer is looked at; empty when it is looked at as a whole."""
        if layer not in self._route_blocks:
            self._route_blocks[layer] = position_blocks((self.oracle, self.sut), layer, STAGE)
        return self._route_blocks[layer]

    def _excused_flips(self, layer: int, number: int) -> Marks:
        """Positions of one request that an excused flip sent elsewhere in a layer; none where no ids are known."""
        if layer not in self._flips:
            marks = [Marks() for _ in self.requests]
            for between in self.route_blocks(layer) or [None]:
                for mark, found in zip(marks, self.routes(layer, between), strict=True):
                    if found is not None:
                        mark.add(found.position, found.excused)
            self._flips[layer] = marks
        return self._flips[layer][number]

    def aligned(
        self, layer: int | None, stage: str, number: int, between: tuple[int, int] | None = None
    ) -> tuple[Aligned | None, Aligned | None]:
        """Both sides of one request, of all positions or of those from `between[0]` to before `between[1]`."""
        of_oracle, of_sut = self.requests[number]
        return (
            align(self.oracle, stage, layer, of_oracle, between=between),
            align(self.sut, stage, layer, of_sut, between=between),
        )

    def _route(self, layer: int, number: int, between: tuple[int, int] | None) -> Routes | None:
        a, b = self.aligned(layer, STAGE, number, between)
        if a is None or b is None or a.tensor.shape[1:] != b.tensor.shape[1:] or a.tensor.is_floating_point():
            return None
        if b.tensor.is_floating_point() or a.tensor.ndim != 2:
            return None
        of_a, of_b, _ = pair_rows(oracle=a, sut=b)
        logits = align(self.oracle, LOGITS, layer, self.requests[number][0], between=between)
        scores = None
        if logits is not None and np.isin(b.position[of_b], logits.position).all():
            scores = logits.tensor.float().cpu().numpy()[b.position[of_b] - logits.position[0]]
        routing = route(
            oracle_ids=a.tensor.cpu().numpy()[of_a], sut_ids=b.tensor.cpu().numpy()[of_b], router_logits=scores
        )
        position, phase = b.position[of_b], b.phase[of_b]
        limits = (
            None
            if self.floor is None
            else margin_floor(self.floor, mode=self.mode, layer=layer, phase=phase, position=position)
        )
        return Routes(routing, position, phase, excused(routing, limits), b.request)

    def part(
        self, number: int, a: Aligned, b: Aligned
    ) -> tuple[tuple[torch.Tensor, torch.Tensor, RowLabels] | None, int]:
        """(oracle rows, SUT rows, labels) at the positions of both, and how many rows have no counterpart."""
        of_a, of_b, alone = pair_rows(oracle=a, sut=b)
        # What the SUT says that it took from a cache it has not computed: neither right nor wrong.
        before = absent_before(self.sut.run, b.request, b.stage)
        alone -= int(((a.position < before) & ~np.isin(a.position, b.position)).sum())
        if not len(of_b):
            return None, alone
        position = b.position[of_b]
        y, x = _rows(a.tensor, of_a), _rows(b.tensor, of_b)
        expert = numbers = excluded = None
        if a.expert is not None and b.expert is not None:
            routing = route(oracle_ids=a.expert[of_a], sut_ids=b.expert[of_b])
            x, expert, excluded = routing.reorder(x), routing.oracle_ids, ~routing.matched
            numbers = None if b.row_in_expert is None else routing.reorder_rows(b.row_in_expert[of_b])
        elif a.stage == "moe.topk_weights" and a.layer is not None:
            between = (int(position[0]), int(position[-1]) + 1) if self.route_blocks(a.layer) else None
            routes = self.routes(a.layer, between)[number]
            routing = None if routes is None else routes.of(position)
            if routing is not None and x.shape == routing.slot.shape:
                x = routing.reorder(x)
        labels = label_rows(
            position=position,
            phase=b.phase[of_b],
            request=b.request,
            slots=b.slots,
            expert=expert,
            number=numbers,
            aside=self._aside(number, b.layer, b.stage, position),
            excluded=excluded,
            context=None if b.context is None else b.context[of_b],
        )
        return (y, x, labels), alone

    def _aside(self, number: int, layer: int | None, stage: str, position: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tokens that an excused flip sent elsewhere before this stage."""
        found = np.zeros(len(position), bool)
        for flips in self._upstream(number, layer, stage):
            found |= flips.at(position)
        return found

    def _upstream(self, number: int, layer: int | None, stage: str) -> Iterator[Marks]:
        if layer is None and stage in {s.name for s in self.family.prologue}:
            return
        layers = range(self.sut.run.layers if layer is None else layer)
        own = layer is not None and stage in _mixed_after_routing(self.family)
        for index in (*layers, layer) if own else layers:
            if index is not None:
                yield self._excused_flips(index, number)

    def _record(self, layer: int | None, stage: str, verdict: Verdict, reason: str) -> Comparison:
        return Comparison(site_name(layer, stage), layer, stage, "prefill", verdict, reason=reason, mode=self.mode)


def _words(values: Iterable[str | None]) -> str:
    """The different values of captures, empty where none says one."""
    return ", ".join(sorted({value for value in values if value is not None}))


def _ends(captures: Iterable[Capture]) -> dict[int, tuple[int, int]]:
    """By request, the least and the largest position of the captures' rows."""
    found: dict[int, tuple[int, int]] = {}
    for capture in captures:
        for request in np.unique(capture.rows.request).tolist():
            at = capture.rows.position[capture.rows.request == request]
            low, high = found.get(request, (int(at.min()), int(at.max())))
            found[request] = min(low, int(at.min())), max(high, int(at.max()))
    return found


def _mixed_after_routing(graph: Family) -> set[str]:
    """Stages of a layer where a flip changes the token's whole row: its weights, and what mixes its experts.

    Expert rows are not among them: they are matched by expert, and what has no counterpart is left out.
    """
    after: set[str] = set()
    for stage in graph.layer:
        if STAGE in stage.inputs or after & set(stage.inputs):
            after.add(stage.name)
    return {name for name in after if "R" not in graph.stage(name).axes}


def _rows(tensor: torch.Tensor, index: NDArray[np.intp]) -> torch.Tensor:
    """Those rows; a view when they are all of them, in order."""
    if len(index) == len(tensor):
        return tensor
    if np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return tensor[int(index[0]) : int(index[0]) + len(index)]
    return tensor[torch.from_numpy(index).to(tensor.device)]
