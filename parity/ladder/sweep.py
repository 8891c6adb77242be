"""How far is the SUT from the truth at each depth? The chained sweep, the oracle routed as the SUT was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from parity.align import align
from parity.compare import compare_aligned, compare_traces
from parity.floor import Floor
from parity.records import Comparison, Summary, Verdict
from parity.runner import CapturePlan, Graft, Request
from parity.stages import family
from parity.trace import Trace


def oracle_trace(oracle: Any, sut: Trace, *, routed_alike: bool = True) -> Trace:
    """The oracle's trace of the same requests.

    routed_alike: put the SUT's top-k choice into the oracle, so that a near-tie of the router does not drown what the
    experts computed; the choice itself is judged against the oracle's own logits, which the graft leaves alone.
    """
    return oracle.forward(requests_of(sut), capture=CapturePlan(), graft=routes_of(sut) if routed_alike else [])


def requests_of(trace: Trace) -> list[Request]:
    """What was run."""
    return [Request(name, ids) for name, ids in zip(trace.run.request_names, trace.run.requests, strict=True)]


def routes_of(trace: Trace) -> list[Graft]:
    """Its choices of experts, as grafts; none of a model without a router."""
    routes = trace.select(stage="moe.topk_ids")
    return [Graft(one.layer, one.stage, trace.tensor(one), one.rows) for one in routes]


def sweep(oracle: Any, sut: Trace, *, floor: Floor | None) -> Summary:
    """Judge every site of the SUT's trace against the oracle's, error inherited from upstream included.

    The oracle is routed as the SUT was. What the SUT chose is judged where it differs from the oracle's own choice: a
    flip is excused only if its margin in the oracle's logits lies within their floor.
    """
    return sweep_against(oracle, oracle_trace(oracle, sut), sut, floor=floor)


def sweep_against(oracle: Any, truth: Trace, sut: Trace, *, floor: Floor | None) -> Summary:
    """`sweep` for a caller that has the oracle's trace already, routed as the SUT was."""
    routed = [
        record
        for request in range(len(sut.run.requests))
        for capture in _layers(sut)
        for record in _judge_choice(oracle, truth, sut, capture, request, floor)
    ]
    found = compare_traces(oracle=truth, sut=sut, floor=floor, allow_grafts=True)
    kept = [record for record in found.comparisons if not _is_choice(record)]
    graph = family(sut.run.family)
    order = {site: rank for rank, site in enumerate((at, s.name) for at, s in graph.sites(sut.run.layers))}
    records = sorted([*kept, *routed], key=lambda record: order[record.layer, record.stage])
    return Summary(tuple(record.name for record in records), tuple(records), found.unobservable)


def sweep_free(oracle: Any, sut: Trace, *, floor: Floor | None) -> Summary:
    """The same with an oracle that chooses its own experts: what an engine's user sees.

    Tokens that a near-tie sent elsewhere are judged by the floor of such tokens, (token, expert) pairs that one side
    alone computed are excluded and counted; over 5 % of them a site is unresolved (NO_POWER). A floor without `free`
    runs measures and does not judge.
    """
    usable = floor if floor is not None and "free" in floor.gates else None
    free = oracle_trace(oracle, sut, routed_alike=False)
    return compare_traces(oracle=free, sut=sut, floor=usable, mode="free", allow_grafts=True)


@dataclass(frozen=True)
class RoutingOfLayer:
    """Both sides' choices in one layer under the free arm. overlap: experts in common of top_k, on average; complete:
    share of tokens with all in common; excluded: share of expert rows without a counterpart."""

    layer: int
    overlap: float
    top_k: float
    complete: float
    excluded: float


def routing_by_layer(free: Summary) -> list[RoutingOfLayer]:
    """Expert overlap and excluded share of every layer, phases weighted by their rows."""
    found = []
    for layer in sorted({c.layer for c in free.comparisons if c.stage == "moe.topk_ids" and c.layer is not None}):
        choices = [c for c in free.comparisons if (c.stage, c.layer) == ("moe.topk_ids", layer) and c.rows]
        rows = [c for c in free.comparisons if (c.stage, c.layer) == ("moe.gate", layer)]
        tokens = sum(c.rows for c in choices)
        if not tokens:
            continue
        excluded, everything = sum(c.excluded_rows for c in rows), sum(c.rows + c.excluded_rows for c in rows)
        overlap, complete = (sum(c.whole[name] * c.rows for c in choices) / tokens for name in ("overlap", "complete"))
        share = excluded / everything if everything else 0.0
        found.append(RoutingOfLayer(layer, overlap, choices[0].whole["top_k"], complete, share))
    return found


def _layers(sut: Trace) -> list[int | None]:
    return list(dict.fromkeys(capture.layer for capture in sut.select(stage="moe.topk_ids")))


def _judge_choice(
    oracle: Any, truth: Trace, sut: Trace, layer: int | None, request: int, floor: Floor | None
) -> tuple[Comparison, ...]:
    chosen, logits = align(sut, "moe.topk_ids", layer, request), align(truth, "moe.router_logits", layer, request)
    if chosen is None or logits is None:
        return ()
    scores = logits.tensor[torch.from_numpy(chosen.position - logits.position[0])]
    own = oracle.replay(
        "moe.topk_ids", layer, {"moe.router_logits": scores}, positions=torch.from_numpy(chosen.position),
        recipe="fp32",
    )  # fmt: skip
    return compare_aligned(oracle=own, sut=chosen, router_logits=scores, floor=floor, mode="chained")


def _is_choice(record: Comparison) -> bool:
    return record.stage == "moe.topk_ids" and record.verdict is Verdict.MATCH
