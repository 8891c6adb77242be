"""May two arms differ by this much? Promised bits, a derived bound, a floor, or no judgement at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

import torch

from parity.compare import compare_traces
from parity.invariance.differ import Agreement, Difference, Within, agree, exactly
from parity.invariance.record import Invariance, Outcome, not_run
from parity.invariance.rules import unit
from parity.invariance.subject import Subject
from parity.records import Site
from parity.runner import RunnerInfo
from parity.trace import MemoryTrace, Trace


def rounding_bound(info: RunnerInfo) -> Within:
    """How far two correct computations of one row, from the same inputs, may lie apart (rel_l2).

    Each rounds once to the stage's dtype, u relative: 2 u; a flash-style attention rounds its probabilities to the
    working dtype besides: u more. Each sums K products in fp32 in an order of its own: at most K 2^-24 of the sum of
    magnitudes (Higham 2002, eq. 3.5), which is sqrt(K) of the sum itself when signs are at random.
    K: the widest contraction of the model (hidden, expert width, heads x head_dim).
    """
    hyper = info.hyper
    widths = [hyper.get("hidden", 0), hyper.get("expert_width", 0), hyper.get("heads", 0) * hyper.get("head_dim", 0)]
    depth = max([1, *(int(width) for width in widths if width)])
    summed = 2 * depth * 2.0**-24 * sqrt(depth)

    def within(stage: str, dtype: torch.dtype) -> float:
        return 3 * unit(dtype) + summed

    return within


def judge(
    name: str,
    subject: Subject,
    *,
    base: Trace,
    turned: Trace,
    turn: str,
    evidence: Mapping[str, Any],
    bound: Within | None = None,
    layers: Callable[[str], Sequence[Difference]] | None = None,
    **how: Any,
) -> Invariance:
    """Compare two arms by the best rule there is: the runner's promise for `name`, else `bound`, else the floor.

    layers: told the first stage that differs, finds every layer in which it differs by itself. how: see `agree`.
    """
    if not evidence or not all(evidence.values()):
        return not_run(name, turn, f"Nothing shows that it was turned: {dict(evidence)}.")
    promise = subject.info.promises.get(name)
    if promise is not None:
        within: Within = exactly if promise == 0 else (lambda stage, dtype: promise)
        basis = "promised bits" if promise == 0 else f"promised distance {promise:g}"
    elif bound is not None:
        within, basis = bound, "bound of rounding"
    else:
        within, basis = exactly, ""
    found = agree(base, turned, within=within, **how)
    numbers = {"sites": found.sites, "rows": found.rows, "worst_rel_l2": found.worst, "worst_at": found.worst_at}
    if found.excused:
        numbers["near_ties_excused"] = found.excused
    if not found.rows:
        return not_run(name, turn, "No row was there to compare.")
    if found.first is None:
        far = "have the same bits" if found.worst == 0 else f"lie at most {found.worst:.2g} apart (rel_l2)"
        sentence = f"Held: {found.rows} rows at {found.sites} sites {far}."
        return Invariance(name, Outcome.HELD, turn, sentence, evidence, basis or "same bits", None, numbers)
    if not basis:
        return _by_floor(name, subject, base, turned, turn, evidence, found, numbers)
    return broken(name, turn, evidence, basis, found, numbers, layers)


def broken(
    name: str,
    turn: str,
    evidence: Mapping[str, Any],
    basis: str,
    found: Agreement,
    numbers: Mapping[str, Any],
    layers: Callable[[str], Sequence[Difference]] | None = None,
) -> Invariance:
    """The record of a difference that may not be."""
    first = found.first
    assert first is not None  # only called with one
    site = first.site
    alone = tuple(layers(first.stage)) if layers is not None and first.layer is not None else ()
    also = {one.layer for one in alone if one.layer is not None}
    if also:
        site = replace(site, layers=tuple(sorted({*site.layers, *also})))
    numbers = {
        **numbers,
        "sites_that_differ": len(found.differences),
        "rows_that_differ": first.rows,
        "rel_l2": first.rel_l2,
        "by_expert": first.by_expert,
        **({"by_layer": {one.layer: one.words() for one in alone}} if alone else {}),
    }
    words = f" By itself in layers {', '.join(map(str, site.layers))}." if len(site.layers) > 1 else ""
    sentence = f"Broken first at {first.words()}.{words}"
    return Invariance(name, Outcome.BROKEN, turn, sentence, evidence, basis, site, numbers)


def _by_floor(
    name: str,
    subject: Subject,
    base: Trace,
    turned: Trace,
    turn: str,
    evidence: Mapping[str, Any],
    found: Agreement,
    numbers: dict[str, Any],
) -> Invariance:
    """Two arms that are each within a floor of the truth are within two floors of each other."""
    first = found.first
    assert first is not None
    shared = set(base.run.request_names)
    if subject.floor is None or not shared <= set(turned.run.request_names):
        why = "it promises no bits here and no floor was given" if subject.floor is None else "no floor for these runs"
        sentence = f"Not judged: {why}. They differ first at {first.words()}."
        return Invariance(name, Outcome.UNJUDGED, turn, sentence, evidence, "", first.site, numbers)
    summary = compare_traces(oracle=base, sut=only_requests(turned, shared), floor=subject.floor)
    judged = [c for c in summary.comparisons if c.over_floor is not None]
    numbers["over_floor"] = summary.worst_over_floor
    over = [c for c in judged if c.over_floor is not None and c.over_floor > 2]
    if over or not judged:
        record = min(over, key=lambda c: summary.comparisons.index(c)) if over else None
        site = first.site if record is None else Site(() if record.layer is None else (record.layer,), record.stage)
        outcome = Outcome.BROKEN if over else Outcome.UNJUDGED
        what = f"{record.name} is {record.over_floor:.1f} floors off" if record else "the floor covers none of it"
        return Invariance(name, outcome, turn, f"{what.capitalize()}.", evidence, "two floors", site, numbers)
    sentence = f"Held: at most {summary.worst_over_floor:.2g} floors apart, where two correct arms may be 2."
    return Invariance(name, Outcome.HELD, turn, sentence, evidence, "two floors", None, numbers)


def only_requests(trace: Trace, names: set[str]) -> Trace:
    """A trace's rows of the requests in `names` alone, numbered anew in the trace's order."""
    kept = [n for n, name in enumerate(trace.run.request_names) if name in names]
    if len(kept) == len(trace.run.request_names):
        return trace
    captures, tensors = [], {}
    for capture in trace.captures:
        where = torch.tensor([int(r) in kept for r in capture.rows.request])
        rows = capture.rows.take(where.numpy())
        if not len(rows):
            continue
        rows = replace(rows, request=rows.request * 0 + [kept.index(int(r)) for r in rows.request])
        tensors[capture.number] = trace.tensor(capture)[where]
        geometry = {k: v for k, v in capture.geometry.items() if k != "expert_offsets"}
        captures.append(replace(capture, rows=rows, shape=tuple(tensors[capture.number].shape), geometry=geometry))
    run = replace(
        trace.run,
        request_names=tuple(trace.run.request_names[n] for n in kept),
        requests=tuple(trace.run.requests[n] for n in kept),
    )
    return MemoryTrace(run, tuple(captures), tensors)
