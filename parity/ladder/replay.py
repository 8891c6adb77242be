"""Where does error arise, and where is it inherited? Each stage alone, the oracle fed the SUT's own inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from parity.align import Aligned, align
from parity.compare import compare_aligned
from parity.errors import TraceError
from parity.floor import Floor
from parity.records import Comparison, Summary, Verdict, site_name
from parity.runner import Replayer
from parity.stages import Family, family
from parity.trace import Trace

Progress = Callable[[int, int], None]
"""Called with how many sites are done, and how many there are."""


@dataclass(frozen=True)
class ReplayedSite:
    """One stage of one request: the SUT's tensor, and the oracle's from the SUT's inputs.

    inputs: the SUT's own inputs by the names of the family's graph (`ids` for the embedding), row for row of `sut`;
        views of the trace's tensors where their order allows it, so do not write to them. Empty with an obstacle.
    obstacle: why there is no oracle tensor (an input that the trace does not hold, rows that contradict each other).
    """

    layer: int | None
    stage: str
    sut: Aligned | None
    oracle: torch.Tensor | None
    obstacle: str = ""
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Replay:
    """All isolated experiments on one trace: `site` replays one stage, `compare` judges them all.

    trace: of an SUT, with the inputs of every stage captured over all positions. oracle: can replay a stage.
    recipe: `fp32`, or a precision recipe to emulate.
    """

    def __init__(self, trace: Trace, oracle: Replayer, *, request: int = 0, recipe: str = "fp32") -> None:
        self.trace = trace
        self.oracle = oracle
        self.request = request
        self.recipe = recipe
        self.family: Family = family(trace.run.family)
        # Neighbouring stages share inputs; a layer's worth of them is kept.
        self._aligned = lru_cache(maxsize=32)(self._align)

    def site(self, layer: int | None, stage: str) -> ReplayedSite:
        """Replay one stage on the SUT's inputs."""
        try:
            sut = self._aligned(layer, stage)
            inputs = {} if sut is None else self._inputs(sut, layer, stage)
        except TraceError as error:
            return ReplayedSite(layer, stage, None, None, str(error))
        if sut is None:
            return ReplayedSite(layer, stage, None, None, f"not in the SUT's trace: {site_name(layer, stage)}")
        if isinstance(inputs, str):
            return ReplayedSite(layer, stage, sut, None, inputs)
        positions = torch.from_numpy(sut.position)
        oracle = self.oracle.replay(stage, layer, inputs, positions=positions, recipe=self.recipe)
        return ReplayedSite(layer, stage, sut, oracle, inputs=inputs)

    def _inputs(self, sut: Aligned, layer: int | None, stage: str) -> dict[str, torch.Tensor] | str:
        """The SUT's own inputs of a stage, row for row of `sut`; else, in words, why they cannot be had."""
        ids = self.trace.run.requests[self.request]
        if stage == "embed.out":
            return {"ids": torch.tensor(ids)[torch.from_numpy(sut.position)]}
        node = self.family.stage(stage)
        if node.state and not np.array_equal(sut.position, np.arange(sut.position[-1] + 1)):
            return (
                f"it reads the positions before its own, and the trace holds {sut.position[0]}..{sut.position[-1]} only"
            )
        places = {name: self.family.resolve(layer, name, layers=self.trace.run.layers) for name in node.inputs}
        found = {name: self._aligned(*place) for name, place in places.items()}
        missing = [site_name(*places[name]) for name, aligned in found.items() if aligned is None]
        if missing:
            return "not in the SUT's trace: " + ", ".join(missing)
        held = {name: aligned for name, aligned in found.items() if aligned is not None}
        other = [site_name(*places[n]) for n, a in held.items() if not np.array_equal(a.position, sut.position)]
        if other:
            return "captured at other positions than the stage itself: " + ", ".join(other)
        return {name: aligned.tensor for name, aligned in held.items()}

    def sites(self) -> Iterator[ReplayedSite]:
        """Every site of the model in order of computation."""
        for layer, stage in self.family.sites(self.trace.run.layers):
            yield self.site(layer, stage.name)

    def compare(self, *, floor: Floor | None, progress: Progress | None = None) -> Summary:
        """Judge every site's isolated error; one comparison a site and phase."""
        total = sum(1 for _ in self.family.sites(self.trace.run.layers))
        records: list[Comparison] = []
        for number, site in enumerate(self.sites(), 1):
            records += self.judge(site, floor=floor)
            if progress is not None:
                progress(number, total)
        return Summary(tuple(record.name for record in records), tuple(records))

    def judge(self, site: ReplayedSite, *, floor: Floor | None) -> tuple[Comparison, ...]:
        """The comparison of one replayed site; NOT_COMPARED where an input was not captured."""
        name = site_name(site.layer, site.stage)
        if site.sut is None or site.oracle is None:
            absent = not self.trace.select(stage=site.stage, layer=site.layer)
            verdict = Verdict.MISSING_IN_SUT if absent else Verdict.NOT_COMPARED
            return (
                Comparison(name, site.layer, site.stage, "prefill", verdict, reason=site.obstacle, mode="isolated"),
            )
        logits = None
        if site.stage == "moe.topk_ids":
            scores = self._aligned(site.layer, "moe.router_logits")
            logits = None if scores is None else scores.tensor
        records = compare_aligned(oracle=site.oracle, sut=site.sut, router_logits=logits, floor=floor)
        return tuple(replace(record, name=name) for record in records)

    def _align(self, layer: int | None, stage: str) -> Aligned | None:
        return align(self.trace, stage, layer, self.request)
