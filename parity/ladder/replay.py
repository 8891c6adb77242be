"""Where does error arise, and where is it inherited? Each stage alone, the oracle fed the SUT's own inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from parity.align import Aligned, align
from parity.compare import compare_aligned
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

    missing: the inputs that the trace does not hold, in which case there is no oracle tensor.
    """

    layer: int | None
    stage: str
    sut: Aligned | None
    oracle: torch.Tensor | None
    missing: tuple[str, ...] = ()


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
        sut = self._aligned(layer, stage)
        if sut is None:
            return ReplayedSite(layer, stage, None, None, (site_name(layer, stage),))
        if stage == "embed.out":
            first, count = int(sut.position[0]), len(sut.position)
            ids = torch.tensor(self.trace.run.requests[self.request][first : first + count])
            inputs = {"ids": ids}
        else:
            places = {
                name: self.family.resolve(layer, name, layers=self.trace.run.layers)
                for name in self.family.stage(stage).inputs
            }
            found = {name: self._aligned(*place) for name, place in places.items()}
            missing = tuple(site_name(*places[name]) for name, aligned in found.items() if aligned is None)
            if missing:
                return ReplayedSite(layer, stage, sut, None, missing)
            inputs = {name: aligned.tensor for name, aligned in found.items() if aligned is not None}
        positions = torch.from_numpy(sut.position)
        oracle = self.oracle.replay(stage, layer, inputs, positions=positions, recipe=self.recipe)
        return ReplayedSite(layer, stage, sut, oracle)

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
            verdict = Verdict.MISSING_IN_SUT if site.sut is None else Verdict.NOT_COMPARED
            reason = "not in the SUT's trace: " + ", ".join(site.missing)
            return (Comparison(name, site.layer, site.stage, "prefill", verdict, reason=reason, mode="isolated"),)
        logits = None
        if site.stage == "moe.topk_ids":
            scores = self._aligned(site.layer, "moe.router_logits")
            logits = None if scores is None else scores.tensor
        records = compare_aligned(oracle=site.oracle, sut=site.sut, router_logits=logits, floor=floor)
        return tuple(replace(record, name=name) for record in records)

    def _align(self, layer: int | None, stage: str) -> Aligned | None:
        return align(self.trace, stage, layer, self.request)
