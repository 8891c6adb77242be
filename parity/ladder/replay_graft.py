"""What would the oracle's stage have put out, fed what this very run computed? A graft that replays its site."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import ProbeError
from parity.ladder.calibrate import Opening
from parity.ladder.replay import Replay
from parity.probes.computing import Site
from parity.records import Capture, Rows, site_name
from parity.runner import Replayer, open_runner
from parity.stages import Family
from parity.trace import MemoryTrace, Trace


@dataclass(frozen=True)
class ReplayGraft:
    """A computed graft: the oracle's stage on the run's own inputs, put at its output.

    span: the stages that the oracle computes, in order, ending with `stage`; more than one where the first live inside
        a kernel and cannot be replaced there. oracle: opened once in the process that runs the engine.
    recipe: precision recipe that the oracle emulates, so that what is put in carries the SUT's own noise.
    needs, history: see parity.runner.ComputedGraft.
    """

    layer: int | None
    stage: str
    span: tuple[str, ...]
    oracle: Opening
    recipe: str
    needs: tuple[Site, ...]
    history: bool

    def compute(self, own: Capture, tensor: torch.Tensor, seen: Trace) -> torch.Tensor:
        """The replayed rows of `own`, in its dtype and order. Raises ProbeError where the oracle cannot replay."""
        oracle = _opened(self.oracle.spec, tuple(sorted(self.oracle.options.items())))
        captures = (*seen.captures, replace(own, number=len(seen.captures)))
        # Oracles compute on the host; what they give is put back where the engine works.
        tensors = {capture.number: seen.tensor(capture).cpu() for capture in seen.captures}
        tensors[captures[-1].number] = tensor.cpu()
        trace = MemoryTrace(seen.run, captures, tensors)
        replayed = replay_span(
            trace, self.layer, self.span, oracle=oracle, recipe=self.recipe, requests=np.unique(own.rows.request)
        )
        return replayed[captures[-1].number].to(tensor.device)


def replay_span(
    trace: Trace,
    layer: int | None,
    span: Sequence[str],
    *,
    oracle: Replayer,
    recipe: str,
    requests: Sequence[int] | NDArray[np.int32] = (0,),
) -> dict[int, torch.Tensor]:
    """What `oracle` makes of the stages `span`, each on what it made of those before, on the trace's own inputs.

    Returns the captures of the last stage by number, in their own dtype and order of rows; rows of other requests than
    `requests` are the trace's. Raises ProbeError where a stage cannot be replayed.
    """
    made: dict[int, torch.Tensor] = {}
    replayed: dict[int, torch.Tensor] = {}
    for stage in span:
        here = trace.select(stage=stage, layer=layer)
        replayed = {capture.number: trace.tensor(capture).cpu().clone() for capture in here}
        for request in requests:
            site = Replay(_Remade(trace, made), oracle, request=int(request), recipe=recipe).site(layer, stage)
            if site.sut is None or site.oracle is None:
                raise _obstacle(site_name(layer, stage), site.obstacle)
            for capture in here:
                _put(replayed[capture.number], capture.rows, int(request), site.oracle, int(site.sut.position[0]))
        made |= replayed
    return replayed


class _Remade(MemoryTrace):
    """A trace, some tensors of which were made anew."""

    def __init__(self, trace: Trace, made: Mapping[int, torch.Tensor]) -> None:
        super().__init__(trace.run, tuple(trace.captures), made)
        self._trace = trace

    def tensor(self, capture: Capture) -> torch.Tensor:
        return self._tensors[capture.number] if capture.number in self._tensors else self._trace.tensor(capture)


def replay_grafts(
    sites: Sequence[Site],
    *,
    graph: Family,
    layers: int,
    inner: Collection[str],
    oracle: Opening,
    recipe: str,
    unobservable: Collection[str] = (),
) -> list[ReplayGraft]:
    """Grafts that put the oracle's replay in place of the SUT's own work at `sites`, all of them jointly.

    layers: of the model. inner: stages that cannot be replaced; the stages that read them are, through a span.
    unobservable: stages that cannot even be shown: what they read is read in their place.
    Raises UsageError for a stage that the family does not have.
    """
    grafts = []
    for layer in dict.fromkeys(layer for layer, _ in sites):
        asked = {graph.stage(stage).name for at, stage in sites if at == layer}
        for stage, span in replaced_spans(asked, graph=graph, layer=layer, inner=inner).items():
            shown = [name for s in span for name in _shown_inputs(s, graph, unobservable)]
            reads = [graph.resolve(layer, name, layers=layers) for name in shown]
            hidden = [(layer, name) for name in span[:-1]]
            needs = tuple(dict.fromkeys([*reads, *hidden]))
            history = any(graph.stage(name).state for name in span)
            grafts.append(ReplayGraft(layer, stage, span, oracle, recipe, needs, history))
    return grafts


def replaced_spans(
    asked: Collection[str], *, graph: Family, layer: int | None, inner: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """For the stages of one layer: where grafts go, and the span that each stands for.

    A stage inside a kernel is replaced at the first stages outside that read it.
    """
    hidden: dict[str, tuple[str, ...]] = {}
    spans: dict[str, tuple[str, ...]] = {}
    for node in (*graph.prologue, *graph.epilogue) if layer is None else graph.layer:
        before = tuple(dict.fromkeys(part for name in node.inputs for part in hidden.get(name, ())))
        if node.name in asked or before:
            (hidden if node.name in inner else spans)[node.name] = (*before, node.name)
    return spans


def _shown_inputs(stage: str, graph: Family, unobservable: Collection[str]) -> list[str]:
    """What a stage reads, the inputs of those that cannot be shown in their place."""
    found: list[str] = []
    for name in graph.stage(stage).inputs:
        found += _shown_inputs(name, graph, unobservable) if name in unobservable else [name]
    return found


def _put(into: torch.Tensor, rows: Rows, request: int, values: torch.Tensor, first: int) -> None:
    """Rows of one request from canonical order, [T, ...] or [T, S, ...] from position `first`, into a capture's own."""
    here = np.flatnonzero(rows.request == request)
    at = [rows.position[here] - first] + ([] if rows.slot is None else [rows.slot[here]])
    index = tuple(torch.from_numpy(np.asarray(part, np.int64)) for part in at)
    into[torch.from_numpy(here).to(into.device)] = values[index].to(into.device, into.dtype)


@lru_cache(maxsize=2)
def _opened(spec: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return open_runner(spec, **dict(options))


def _obstacle(name: str, why: str) -> ProbeError:
    return ProbeError(
        place=f"replay graft at {name}",
        expected="everything that the stage reads, from this run",
        found=why,
        next_step="Graft a tensor instead, or a site whose inputs the engine shows.",
    )
