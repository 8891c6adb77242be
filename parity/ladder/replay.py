"""Where does error arise, and where is it inherited? Each stage alone, the oracle fed the SUT's own inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch

from parity.align import Aligned, align
from parity.compare.isolated import Piece, judge_pieces
from parity.errors import TraceError, UsageError
from parity.floor import Floor
from parity.records import Comparison, Summary, Verdict, site_name
from parity.runner import Replayer
from parity.stages import Family, Stage, family, term
from parity.trace import Trace

Progress = Callable[[int, int], None]
"""Called with how many sites are done, and how many there are."""

PIECE_BYTES = 1 << 20
"""Most bytes of exact values of a piece of a site outside the layers: logits are wider than a layer's captures."""

KEPT = 6
"""Captures of a request that are kept in canonical order: no stage reads more than five."""


@dataclass(frozen=True)
class ReplayedSite:
    """One stage of one request: the SUT's tensor, and the oracle's from the SUT's inputs.

    inputs: the SUT's own inputs by the names of the family's graph (`ids` for the embedding), row for row of `sut`;
        views of the trace's tensors where their order allows it, so do not write to them. Empty with an obstacle.
    obstacle: why there is no oracle tensor (an input that the trace does not hold, rows that contradict each other).
    emulated: what the recipe's emulation puts out for the same inputs, where it was asked for.
    hidden: stages before it that the engine has inside one kernel with it and says it cannot show
        (`flags["unobservable"]` of its run), in order: the site is the kernel's, `inputs` are what the kernel reads.
    """

    layer: int | None
    stage: str
    sut: Aligned | None
    oracle: torch.Tensor | None
    obstacle: str = ""
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    request: int = 0
    emulated: torch.Tensor | None = None
    hidden: tuple[Stage, ...] = ()

    def recompute(
        self, oracle: Replayer, *, recipe: str, inputs: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """What `oracle` makes of the site's inputs, or of other `inputs` by the same names, hidden stages included."""
        assert self.sut is not None
        given, positions = dict(self.inputs if inputs is None else inputs), torch.from_numpy(self.sut.position)
        for node in self.hidden:
            read = {name: given[name] for name in node.inputs}
            given[node.name] = oracle.replay(node.name, self.layer, read, positions=positions, recipe=recipe)
        return oracle.replay(self.stage, self.layer, given, positions=positions, recipe=recipe)


class Replay:
    """All isolated experiments on one trace: `site` replays one stage, `compare` judges them all.

    trace: of an SUT, with the inputs of every stage captured over all positions; of one capture, in memory or on disk.
        Prefill chunks and decode steps of a request are replayed together: what a decode step reads of earlier
        positions is in the trace.
    oracle: can replay a stage. recipe: `fp32`, or a precision recipe to emulate.
    request: which one `site` replays; `compare` covers them all.
    """

    def __init__(self, trace: Trace, oracle: Replayer, *, request: int = 0, recipe: str = "fp32") -> None:
        self.trace = trace
        self.oracle = oracle
        self.request = request
        self.recipe = recipe
        self.family: Family = family(trace.run.family)
        # Neighbouring stages share inputs. Rows that an engine permuted are copies here: few are kept.
        self._aligned = lru_cache(maxsize=KEPT * max(len(trace.run.requests), 1))(self._align)

    def site(
        self, layer: int | None, stage: str, *, request: int | None = None, between: tuple[int, int] | None = None
    ) -> ReplayedSite:
        """Replay one stage on the SUT's inputs. Raises UsageError for a site that the model does not have.

        between: only positions from the first to before the second, of a stage without state.
        """
        self.refuse_unknown(layer, stage)
        number = self.request if request is None else request

        def read(layer: int | None, stage: str) -> Aligned | None:
            # A piece is read once: kept, the pieces would be the whole again.
            whole = between is None
            return self._aligned(layer, stage, number) if whole else self._align(layer, stage, number, between)

        try:
            sut = read(layer, stage)
            inputs = {} if sut is None else self._inputs(sut, layer, stage, number, read)
        except TraceError as error:
            return ReplayedSite(layer, stage, None, None, str(error), request=number)
        if sut is None:
            missing = f"not in the SUT's trace: {site_name(layer, stage)}"
            return ReplayedSite(layer, stage, None, None, missing, request=number)
        if isinstance(inputs, str):
            return ReplayedSite(layer, stage, sut, None, inputs, request=number)
        found = ReplayedSite(layer, stage, sut, None, inputs=inputs, request=number, hidden=self._hidden(stage))
        return replace(found, oracle=found.recompute(self.oracle, recipe=self.recipe))

    def pieces(self, layer: int | None, stage: str) -> Iterator[list[ReplayedSite]]:
        """One site replayed for every request of the trace: in one piece or, outside the layers, in ranges of
        positions that keep the exact values of a piece within PIECE_BYTES.

        A piece has the requests that reach it, the first those without any row too. Every row of a stage outside the
        layers stands for itself, and the logits of a few hundred positions are larger than all captures of a layer.
        """
        self.refuse_unknown(layer, stage)
        reach, width = self._reach(layer, stage)
        ranges = [ends for ends in reach if ends is not None]
        step = max(PIECE_BYTES // (4 * max(width, 1) * max(len(reach), 1)), 1)
        first, last = min((low for low, _ in ranges), default=0), max((high for _, high in ranges), default=0)
        if layer is not None or self.family.stage(stage).state or last - first < step:
            yield self.requests_at(layer, stage)
            return
        for at in range(first, last + 1, step):
            yield [
                self.site(layer, stage, request=number, between=(at, at + step))
                for number, ends in enumerate(reach)
                if (at == first if ends is None else ends[0] < at + step and ends[1] >= at)
            ]

    def _reach(self, layer: int | None, stage: str) -> tuple[list[tuple[int, int] | None], int]:
        """(the first and last position of each request, None for one without rows; elements of a row)."""
        captures = [c for c in self.trace.select(stage=stage, layer=layer) if len(c.rows.position)]
        found: list[tuple[int, int] | None] = []
        for number in range(len(self.trace.run.requests)):
            rows = [c.rows.position[c.rows.request == number] for c in captures]
            ends = [(int(x.min()), int(x.max())) for x in rows if len(x)]
            found.append((min(low for low, _ in ends), max(high for _, high in ends)) if ends else None)
        return found, max((math.prod(c.shape[1:]) for c in captures), default=0)

    def emulate(self, site: ReplayedSite, recipe: str) -> ReplayedSite:
        """The same site with what the emulation of `recipe` puts out for its inputs; unchanged with an obstacle."""
        if site.sut is None or site.oracle is None or site.emulated is not None:
            return site
        return replace(site, emulated=site.recompute(self.oracle, recipe=recipe))

    def _hidden(self, stage: str) -> tuple[Stage, ...]:
        """The stages inside one kernel with `stage` and before it, in order of computation."""
        found: dict[str, Stage] = {}
        for name in self.family.stage(stage).inputs:
            if name in self.trace.run.unobservable:
                found |= {node.name: node for node in (*self._hidden(name), self.family.stage(name))}
        return tuple(found.values())

    def _inputs(
        self,
        sut: Aligned,
        layer: int | None,
        stage: str,
        request: int,
        read: Callable[[int | None, str], Aligned | None],
    ) -> dict[str, torch.Tensor] | str:
        """The SUT's own inputs of a stage, row for row of `sut`; else, in words, why they cannot be had."""
        ids = self.trace.run.requests[request]
        if stage == "embed.out":
            return {"ids": torch.tensor(ids)[torch.from_numpy(sut.position)]}
        node, hidden = self.family.stage(stage), self._hidden(stage)
        remembers = any(one.state for one in (*hidden, node))
        first, last = int(sut.position[0]), int(sut.position[-1])
        if remembers and first:
            return f"it reads the positions before its own, and the trace holds {first}..{last} only"
        names = dict.fromkeys(name for one in (*hidden, node) for name in one.inputs)
        for one in hidden:
            del names[one.name]
        places = {name: self.family.resolve(layer, name, layers=self.trace.run.layers) for name in names}
        found = {name: read(*place) for name, place in places.items()}
        missing = [site_name(*places[name]) for name, aligned in found.items() if aligned is None]
        if missing:
            return "not in the SUT's trace: " + ", ".join(missing)
        held = {name: aligned for name, aligned in found.items() if aligned is not None}
        # Engines that need the logits of the last row alone compute no others: of the norm before, that row is read.
        ends = {name: (int(one.position[0]), int(one.position[-1])) for name, one in held.items()}
        other = [n for n, (a, b) in ends.items() if not (a <= first and last <= b) or (remembers and b != last)]
        if other:
            names = ", ".join(site_name(*places[name]) for name in other)
            return "captured at other positions than the stage itself: " + names
        return {name: one.tensor[first - ends[name][0] : last + 1 - ends[name][0]] for name, one in held.items()}

    def sites(self) -> Iterator[ReplayedSite]:
        """Every site of the model in order of computation, of the one request."""
        for layer, stage in self.family.sites(self.trace.run.layers):
            yield self.site(layer, stage.name)

    def requests_at(self, layer: int | None, stage: str) -> list[ReplayedSite]:
        """One site replayed for every request of the trace."""
        return [self.site(layer, stage, request=number) for number in range(len(self.trace.run.requests))]

    def compare(self, *, floor: Floor | None, progress: Progress | None = None) -> Summary:
        """Judge every site's isolated error over all requests; one comparison a site and phase.

        A stage that the engine says it cannot show is judged with the one that reads it, and has no comparison.
        Raises UsageError for a floor of another recipe or lineage than the trace's.
        """
        if floor is not None:
            floor.refuse_other(self.trace.run)
        run = self.trace.run
        shown = {(capture.layer, capture.stage) for capture in self.trace.captures} | set(run.declared)
        places = [
            (layer, stage.name)
            for layer, stage in self.family.sites(run.layers)
            if stage.name not in run.unobservable or (layer, stage.name) in shown
        ]
        records: list[Comparison] = []
        for number, place in enumerate(places, 1):
            records += self.judge_site(*place, floor=floor)
            if progress is not None:
                progress(number, len(places))
        compared = {stage for _, stage in places}
        hidden = {stage: why for stage, why in run.hidden.items() if stage not in compared}
        return Summary(tuple(record.name for record in records), tuple(records), hidden)

    def judge_site(self, layer: int | None, stage: str, *, floor: Floor | None) -> tuple[Comparison, ...]:
        """Replay one stage for every request and `judge` it, a piece of its rows held at a time."""
        return self._judge(layer, stage, lambda: self.pieces(layer, stage), floor)

    def judge(self, *sites: ReplayedSite, floor: Floor | None) -> tuple[Comparison, ...]:
        """The comparisons of one stage, replayed for one request or several; NOT_COMPARED where an input was not
        captured.

        Two gates, where the floor has both: the error against exact arithmetic, and the distance to the emulation of
        the floor's recipe on the same inputs, which shares the recipe's roundings and so sees what they would cover.
        """
        return self._judge(sites[0].layer, sites[0].stage, lambda: iter([list(sites)]), floor)

    def _judge(
        self, layer: int | None, stage: str, replayed: Callable[[], Iterator[list[ReplayedSite]]], floor: Floor | None
    ) -> tuple[Comparison, ...]:
        by_distance = floor is not None and "distance" in floor.gates and term(stage).values != "ids"
        hidden = {node.name for node in self._hidden(stage)}
        apart = hidden & {key.stage for key in floor.scales if key.mode == "isolated"} if floor and hidden else set()
        without: dict[int, str] = {}

        def pieces() -> Iterator[Piece]:
            for sites in replayed():
                for site in sites:
                    if site.sut is None or site.oracle is None:
                        without.setdefault(site.request, site.obstacle)
                held = [site for site in sites if site.sut is not None and site.oracle is not None]
                if held and not apart:
                    if floor is not None and by_distance:
                        held = [self.emulate(site, floor.recipe.name) for site in held]
                    scores = [self._router_logits(site) for site in held] if stage == "moe.topk_ids" else None
                    yield Piece(
                        [(one.oracle, one.sut) for one in held if one.oracle is not None and one.sut is not None],
                        [one.emulated for one in held if one.emulated is not None] if by_distance else None,
                        scores,
                    )

        records = judge_pieces(pieces, floor=floor)
        if records:
            return tuple(_with_obstacles(record, without) for record in records)
        verdict, reason = Verdict.NOT_COMPARED, next(iter(without.values()), "")
        if without and not self.trace.select(stage=stage, layer=layer):
            verdict = Verdict.MISSING_IN_SUT
        elif len(without) < len(self.trace.run.requests) and apart:
            reason = (
                f"the engine has it in one kernel with {', '.join(sorted(apart))}, the floor's clean runs have not: "
                "calibrate a floor with these hidden (--hide), or let the investigation make one (--calibrate)"
            )
        name = site_name(layer, stage)
        return tuple(
            Comparison(name, layer, stage, phase, verdict, reason=reason, mode="isolated") for phase in self.phases()
        )

    def _router_logits(self, site: ReplayedSite) -> torch.Tensor | None:
        scores = self._aligned(site.layer, "moe.router_logits", site.request)
        return None if scores is None else scores.tensor

    def phases(self) -> list[str]:
        """Phases of the trace's captures, prefill first."""
        found = {capture.phase for capture in self.trace.captures}
        return [phase for phase in ("prefill", "decode") if phase in found] or ["prefill"]

    def refuse_unknown(self, layer: int | None, stage: str) -> None:
        """Raise UsageError for a site that the model does not have."""
        node = self.family.stage(stage)
        inside, layers = node in self.family.layer, self.trace.run.layers
        if inside != (layer is not None) or (layer is not None and not 0 <= layer < layers):
            raise UsageError(
                place=f"replay of {stage}",
                expected=f"a layer 0..{layers - 1}" if inside else f"no layer: {stage} stands outside the layers",
                found=f"layer {layer}",
                next_step="Layer indices are absolute and start at 0; the family's graph is in parity/stages.py.",
            )

    def _align(
        self, layer: int | None, stage: str, request: int, between: tuple[int, int] | None = None
    ) -> Aligned | None:
        return align(self.trace, stage, layer, request, between=between)


def _with_obstacles(record: Comparison, without: Mapping[int, str]) -> Comparison:
    """A comparison of some requests only is no clean bill for the others."""
    if not without or not record.verdict.healthy:
        return record
    reason = f"{len(without)} requests could not be replayed: {next(iter(without.values()))}"
    return replace(record, verdict=Verdict.NOT_COMPARED, reason=reason)
