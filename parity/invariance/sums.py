"""Which sums must come out, whatever the right answer is? Rules that one trace must obey by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from parity.align import Aligned, align
from parity.invariance.norms import head_norms, layer_norms
from parity.invariance.record import Invariance, Outcome, not_run
from parity.invariance.rules import Breach, unit, unit_held, unproven
from parity.invariance.subject import Subject
from parity.records import Site, Slice, site_name
from parity.stages import family
from parity.trace import Trace

CACHE = {"bf16": torch.bfloat16, "f16": torch.float16, "fp16": torch.float16, "e4m3": torch.float8_e4m3fn}
"""Dtypes of a KV cache by the names that recipes give them; any other rounds nothing."""

Rule = Callable[[Trace, int, dict], "Iterator[Breach | None]"]


def routing_weights(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """Routing weights of a token sum to 1 when they are renormalized, else to at most 1; none is negative.

    Bound: each of the S weights was rounded once and their sum divided by once: (2 S + 2) u of the weights' dtype; of
    the dtype that they were rounded to, where a wider one holds them.
    """
    for one in _requests(trace, "moe.topk_weights", layer):
        weights = one.tensor.double()
        total = weights.sum(1)
        allowed = (2 * weights.shape[1] + 2) * unit_held(one.tensor)
        off = (total - 1).abs() if hyper.get("norm_topk_prob") else (total - 1).clamp_min(0)
        off = torch.where((weights < 0).any(1), torch.inf, off)
        yield Breach.of(one, off / allowed, "routing weights sum to 1", worst=float(total[off.argmax()]))


def chosen_experts(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """A token's experts are distinct, exist, and no expert that was left out has a higher score than one chosen."""
    experts = int(hyper.get("experts", 0))
    for one in _requests(trace, "moe.topk_ids", layer):
        ids = one.tensor.long()
        bad = ((ids < 0) | (ids >= experts)).any(1) | (ids.sort(1).values.diff(dim=1) == 0).any(1)
        scores = align(trace, "moe.router_logits", layer, trace.run.request_names.index(one.request))
        if scores is not None and len(scores.tensor) == len(ids):
            logits = scores.tensor.double()
            safe = ids.clamp(0, experts - 1)
            lowest = logits.gather(1, safe).min(1).values
            rest = logits.scatter(1, safe, -torch.inf).max(1).values
            bad |= rest > lowest
        yield Breach.of(one, torch.where(bad, torch.inf, 0.0), "chosen experts are distinct and have the top scores")


def tokens_per_expert(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """Rows of each expert: as many as tokens chose it, in the place that `expert_offsets` gives it, R = T x top-k."""
    for stage in ("moe.gate", "moe.up", "moe.act", "moe.down"):
        for capture in trace.select(stage=stage, layer=layer):
            offsets = capture.geometry.get("expert_offsets")
            if offsets is None or "row" in capture.geometry or capture.rows.expert is None:
                continue
            loads, rows = np.diff(np.asarray(offsets)), capture.rows
            chosen = _chosen(trace, layer, rows)
            named = capture.rows.expert if chosen is None else chosen
            counts = np.bincount(np.maximum(named, 0), minlength=len(loads))
            place = np.repeat(np.arange(len(loads)), np.maximum(loads, 0))
            wrong = np.flatnonzero(counts[: len(loads)] != loads)
            misplaced = len(place) != len(rows) or bool((place != rows.expert).any())
            if len(wrong) or misplaced or int(loads.sum()) != len(rows):
                experts = tuple(int(e) for e in wrong) or None
                sentence = f"{len(rows)} rows, loads {loads.tolist()} by expert_offsets, {counts.tolist()} by ids"
                site = Site((layer,), stage, Slice(experts=experts))
                yield Breach("tokens of an expert match expert_offsets", site, float("inf"), len(wrong), sentence)
            else:
                yield None


def round_trip(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """Every (token, slot) has exactly one expert row, and it is of the expert that the slot names."""
    top_k = int(hyper.get("top_k", 0))
    for stage in ("moe.gate", "moe.down"):
        for capture in trace.select(stage=stage, layer=layer):
            rows = capture.rows
            if rows.slot is None or rows.expert is None or "row" in capture.geometry:
                continue
            pairs = set(zip(rows.request.tolist(), rows.position.tolist(), rows.slot.tolist(), strict=True))
            tokens = set(zip(rows.request.tolist(), rows.position.tolist(), strict=True))
            chosen = _chosen(trace, layer, rows)
            wrong = np.zeros(len(rows), bool) if chosen is None else chosen != rows.expert
            if len(pairs) != len(rows) or (top_k and len(rows) != len(tokens) * top_k) or wrong.any():
                experts = tuple(np.unique(rows.expert[wrong]).tolist()) or None
                sentence = (
                    f"{len(rows)} rows of {len(tokens)} tokens, {len(pairs)} of them distinct, {wrong.sum()} of "
                    "another expert"
                )
                site = Site((layer,), stage, Slice(experts=experts))
                yield Breach("each (token, slot) has one expert row", site, float("inf"), int(wrong.sum()), sentence)
            else:
                yield None


def first_position(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """Position 0 attends to itself alone: its context is its own value, head by head of the group; one rounding, and
    one to the KV cache's dtype, where the engine says that it reads the value back from there."""
    cache = CACHE.get(trace.run.recipe.kv_cache, torch.float32)
    for number in range(len(trace.run.request_names)):
        context, value = (align(trace, f"attn.{name}", layer, number) for name in ("context", "v"))
        if context is None or value is None or context.position[0] or value.position[0]:
            continue
        own, v = context.tensor[:1].double(), value.tensor[:1].double()
        v = v.repeat_interleave(own.shape[1] // v.shape[1], dim=1)
        relative = 2 * unit(context.tensor.dtype) + (unit(cache) if cache != value.tensor.dtype else 0.0)
        allowed = relative * v.abs() + torch.finfo(cache).smallest_normal * unit(cache) + 1e-30
        far = unproven((own - v).abs() / allowed)
        heads = torch.nonzero((far > 1).any(2).flatten()).flatten().tolist()
        slice_ = Slice(heads=tuple(heads) or None, rows=(0,), positions=(0, 1))
        if heads:
            site, words = Site((layer,), "attn.context", slice_), f"heads {heads} of position 0 are not its own value"
            yield Breach("position 0 attends to itself", site, float(far.max()), 1, words)
        else:
            yield None


def residual_adds(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """resid.mid = resid.in + attn.out, and resid.out = resid.mid + what the block adds (`mlp.down` or
    `moe.experts`, whichever the trace holds): one rounding of the sum."""
    before = (None, "embed.out") if layer == 0 else (layer - 1, "resid.out")
    for (at, left), right, total in (
        (before, "attn.out", "resid.mid"),
        ((layer, "resid.mid"), "moe.experts", "resid.out"),
        ((layer, "resid.mid"), "mlp.down", "resid.out"),
    ):
        for number in range(len(trace.run.request_names)):
            a, b = align(trace, left, at, number), align(trace, right, layer, number)
            c = align(trace, total, layer, number)
            if a is None or b is None or c is None or not len(a.position) == len(b.position) == len(c.position):
                continue
            x, y, z = (one.tensor.double() for one in (a, b, c))
            # The sum may have been formed in the operands' dtype, after a rounding of either.
            allowed = 2 * unit(c.tensor.dtype) * torch.maximum((x + y).abs(), z.abs()) + 2.0**-130
            far = unproven(((z - x - y).abs() / allowed).amax(1))
            yield Breach.of(c, far, f"{total} is the sum of {left} and {right}")


RULES: dict[str, Rule] = {
    "routing weights": routing_weights,
    "chosen experts": chosen_experts,
    "tokens per expert": tokens_per_expert,
    "permutation": round_trip,
    "first position": first_position,
    "residual adds": residual_adds,
    "layer norms": layer_norms,
    "head norms": head_norms,
}


@dataclass(frozen=True)
class Sums:
    """What a trace's sums came to. checked: how often each rule was tried; breaches: in order of computation."""

    checked: dict[str, int]
    breaches: tuple[Breach, ...]


def sum_rules(trace: Trace) -> Sums:
    """Try every rule on every layer of `trace`; a rule whose stages were not captured is not counted."""
    checked, breaches = dict.fromkeys(RULES, 0), []
    hyper = dict(trace.run.hyper)
    for layer in range(trace.run.layers):
        for name, rule in RULES.items():
            for breach in rule(trace, layer, hyper):
                checked[name] += 1
                if breach is not None:
                    breaches.append(breach)
    graph, layers = family(trace.run.family), trace.run.layers

    def rank(breach: Breach) -> int:
        return graph.position(next(iter(breach.site.layers), None), breach.site.stage, layers=layers)

    return Sums(checked, tuple(sorted(breaches, key=rank)))


def check_sums(subject: Subject) -> Invariance:
    """Sum rules on the long prompt's trace."""
    return judge_sums(subject.base(subject.request))


def judge_sums(trace: Trace) -> Invariance:
    """Sum rules on a trace that is at hand."""
    turn = "nothing: rules that one run must obey by itself"
    sums = sum_rules(trace)
    tried = {name: count for name, count in sums.checked.items() if count}
    if not tried:
        return not_run("sums", turn, "The runner shows none of the stages that the rules are about.")
    numbers = {"rules": len(tried), "never_tried": [name for name, count in sums.checked.items() if not count]}
    basis = "bound of the dtype's rounding"
    if not sums.breaches:
        sentence = f"Held: {len(tried)} rules, {sum(tried.values())} times."
        return Invariance("sums", Outcome.HELD, turn, sentence, tried, basis, None, numbers)
    first = sums.breaches[0]
    alike = [b.site for b in sums.breaches if (b.rule, b.site.stage) == (first.rule, first.site.stage)]
    layers = sorted({layer for site in alike for layer in site.layers})
    site = Site(tuple(layers), first.site.stage, first.site.slice)
    numbers |= {"breaches": len(sums.breaches), "rule": first.rule, "rows": first.rows, "over_bound": first.over}
    where = site_name(layers[0] if layers else None, site.stage)
    sentence = f"Broken at {where}: not true that {first.rule}; {first.sentence}."
    if len(layers) > 1:
        sentence += f" The same in layers {', '.join(map(str, layers))}."
    return Invariance("sums", Outcome.BROKEN, turn, sentence, tried, basis, site, numbers)


def _requests(trace: Trace, stage: str, layer: int) -> Iterator[Aligned]:
    for number in range(len(trace.run.request_names)):
        one = align(trace, stage, layer, number)
        if one is not None:
            yield one


def _chosen(trace: Trace, layer: int, rows) -> np.ndarray | None:
    """The expert that moe.topk_ids names for each expert row, None where ids were not captured."""
    chosen = np.full(len(rows), -1)
    for number in np.unique(rows.request):
        ids = align(trace, "moe.topk_ids", layer, int(number))
        if ids is None:
            return None
        own = np.flatnonzero(rows.request == number)
        at = rows.position[own] - ids.position[0]
        if at.min() < 0 or at.max() >= len(ids.position) or rows.slot[own].max() >= ids.tensor.shape[1]:
            return None
        chosen[own] = ids.tensor.cpu().numpy()[at, rows.slot[own]]
    return chosen
