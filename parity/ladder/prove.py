"""Is the error really made there? Three grafts: the SUT's own tensor, the oracle's at the inputs, the replay's at the
output.

The sham must change no bit: the instrument itself is harmless. With the oracle's tensors at the inputs of the site the
error must stay: it is not inherited. With the oracle's stage on the SUT's own inputs put at the output, in prefill and
decode alike, it must go: nothing else makes it. All layers and stages of the finding are grafted jointly.

One fault can hide another: a projection whose lost rows are zero gives the next one zeros, which that one maps to zero
rightly, although it would lose the same rows. What adds error of its own only once the first sites are mended is
unmasked here, and mended with them.

A fault below every chained floor leaves no excess whose going could be watched: `Silent` says what is asked instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parity.errors import UsageError
from parity.floor import Floor
from parity.graft.effect import Effect, agreement, changed_bits, effect_on_logits, logits_of
from parity.graft.select import select_graft
from parity.ladder.calibrate import Opening
from parity.ladder.replay import Replay
from parity.ladder.replay_graft import Site, replaced_spans, replay_grafts
from parity.ladder.reversal import measure_reversal
from parity.ladder.silent import Silent, direction_of, raised_sites, scores_at, shares_left
from parity.ladder.sweep import oracle_trace, sweep_against
from parity.process_runner import OnStep
from parity.records import Finding, Summary, Verdict, site_name, split_site
from parity.runner import CapturePlan, Generation, Graft, Request, Schedule
from parity.stages import Family, family
from parity.trace import Trace

ROUTER = ("moe.router_logits", "moe.topk_ids")

PINNED = 0x3C
"""Byte that memory is filled with for an SUT whose unwritten rows show: 0.0115 as BF16, finite in every dtype."""

UNMASKING_ROUNDS = 4
"""Faults that hide one behind the other in one layer: gate and up, act, down, and what combines them."""


@dataclass(frozen=True)
class Proof:
    """What the three grafts did.

    sites: where, by name. sham_changed: logits that the SUT's own tensors changed; 0 when the instrument is harmless.
    added: by site, the isolated score over the floor with the oracle's tensors at its inputs; above 1 the error stays.
    cleared: chained scores over the floor at every site that exceeded it before, as (before, after the output graft).
    unmasked: sites that add error of their own only once the others are mended, with their isolated scores then.
    silent: for a fault that no chained floor saw, what is asked in place of `cleared`; None where one saw it.
    effect: of the output graft on the logits, against the oracle's. text_before, text_after: tokens of the greedy
        continuation that agree with the oracle's from the start on, of how many.
    """

    sites: tuple[str, ...]
    sham_changed: int | None
    added: dict[str, float | None]
    cleared: dict[str, tuple[float | None, float | None]]
    unmasked: dict[str, float | None]
    effect: Effect
    text_before: tuple[int, int] | None = None
    text_after: tuple[int, int] | None = None
    repeats: bool = True
    silent: Silent | None = None

    @property
    def stays(self) -> bool:
        """The error is added although the inputs are the oracle's: at the first site, and at each of the same stage."""
        stage = split_site(self.sites[0])[1] if self.sites else ""
        scores = [score for name, score in self.added.items() if split_site(name)[1] == stage]
        return bool(scores) and all(score is not None and score > 1 for score in scores)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """Sites of other stages that add nothing once their inputs are the oracle's: what they showed was inherited."""
        return tuple(name for name, score in self.added.items() if score is None or score <= 1) if self.stays else ()

    @property
    def removed(self) -> bool:
        """Nothing that exceeded its chained floor still does; where nothing did, `silent` holds."""
        if not self.cleared:
            return self.silent is not None and self.silent.holds
        return all(after is not None and after <= 1 for _, after in self.cleared.values())

    @property
    def proved(self) -> bool:
        """All three arms came out as they must."""
        return self.sham_changed == 0 and self.stays and self.removed

    @property
    def left(self) -> tuple[str, ...]:
        """Sites that still exceed their chained floor under the output graft."""
        return tuple(name for name, (_, after) in self.cleared.items() if after is None or after > 1)

    def as_evidence(self) -> dict[str, Any]:
        """The proof as a finding carries it: the three arms, their numbers, and the sentence."""
        return {
            "proved": self.proved,
            "sham_changed": self.sham_changed,
            "repeats": self.repeats,
            "stays": self.stays,
            "removed": self.removed,
            "below_chained_floors": self.silent,
            "sites": self.sites,
            "unmasked": self.unmasked,
            "added_with_oracle_inputs": self.added,
            "left": self.left,
            "unconfirmed": self.unconfirmed,
            "effect": self.effect,
            "text_agreement_before": self.text_before,
            "text_agreement_after": self.text_after,
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """The three arms in words."""
        sham = f"changes {self.sham_changed} logits (it must change none)"
        if self.sham_changed is None:
            sham = "cannot be told from what the SUT itself changes from run to run"
        elif not self.sham_changed:
            sham = (
                "changes no bit" if self.repeats else "changes no bit on pinned memory (the SUT does not repeat itself)"
            )
        low = min(
            (s for n, s in self.added.items() if s is not None and n not in self.unconfirmed), default=float("nan")
        )
        stays = f"leaves the error ({low:.3g} times its gate or more)" if self.stays else "does not leave the error"
        goes = (
            f"removes it ({self.effect.line()})"
            if self.removed
            else f"leaves {len(self.left)} of {len(self.cleared)} sites over their floor ({self.effect.line()})"
        )
        if self.silent is not None:
            goes = "removes it" if self.removed else "is not shown to remove it"
            goes += f", which no chained floor sees ({self.silent.reversal.line()}; {self.effect.line()})"
        if self.unmasked:
            goes += f", once {', '.join(self.unmasked)} are mended with them, whose error the others hid"
        arms = f"the SUT's own tensor {sham}; the oracle's inputs: {stays}; the replayed output: {goes}"
        return f"Grafts at {', '.join(self.sites)}: {arms}."


def sites_of(finding: Finding) -> list[Site]:
    """Every site that adds error according to a finding: its stage in its layers, and the others it names."""
    if finding.stage is None:
        raise UsageError(
            place="proof",
            expected="a finding with a stage",
            found=f"verdict {finding.verdict} without one",
            next_step="A clean or unresolved finding has nothing to prove.",
        )
    others = finding.evidence.get("also_adds_error", {})
    layers: tuple[int | None, ...] = finding.layers or (None,)
    return [(layer, finding.stage) for layer in layers] + [(n, stage) for stage, at in others.items() for n in at]


def prove(
    sut: Any,
    *,
    oracle: Any,
    emulation: Opening,
    request: Request,
    trace: Trace,
    sites: Sequence[Site],
    chained: Summary,
    floor: Floor,
    schedule: Schedule = Schedule(),
    prompt: Request | None = None,
    truth: Trace | None = None,
    again: Trace | None = None,
    generations: tuple[Generation, Generation] | None = None,
    on_step: OnStep | None = None,
) -> Proof:
    """Try a finding by grafts.

    sut: can forward, generate and graft. oracle: exact; can forward, graft and replay. emulation: opens a runner that
        replays the SUT's recipe, in the SUT's process. trace: of the SUT, every stage. sites: of the finding.
    chained: the sweep of `trace`. truth: the oracle's trace that it was held against; None runs the oracle for it.
    schedule: how `request` was fed in `trace`, and is fed here. prompt: what of it the continuations begin after; None
        for all of it.
    again: a second run of the SUT that is at hand; None makes one.
    generations: the SUT's and the oracle's continuation; None leaves the text out.
    Raises UsageError for an SUT that cannot graft.
    """
    info = sut.describe()
    if "graft" not in info.can:
        raise UsageError(
            place=f"proof on runner {info.name}",
            expected="a runner that can graft",
            found=", ".join(sorted(info.can)),
            next_step="Without grafts the isolated replay stands as evidence, not as proof.",
        )
    graph, layers = family(trace.run.family), trace.run.layers
    tell = on_step or (lambda *_: None)
    tell("proof", 0, 3)
    logits_only = CapturePlan(stages=("logits",))
    sham_changed, repeats = _sham(
        sut, request, trace, lambda seen: _own_tensors(seen, sites, graph, info.inner), again=again, schedule=schedule
    )
    tell("proof", 1, 3)
    truth = oracle_trace(oracle, trace) if truth is None else truth
    added, direction = _with_oracle_inputs(
        sut,
        oracle,
        request,
        trace,
        truth,
        sites,
        graph,
        info.inner | trace.run.unobservable,
        floor,
        schedule,
    )
    tell("proof", 2, 3)
    mended, unmasked = list(sites), {}
    for _ in range(UNMASKING_ROUNDS):
        grafts = replay_grafts(
            mended,
            graph=graph,
            layers=layers,
            inner=info.inner,
            oracle=emulation,
            recipe=info.recipe.name,
            unobservable=trace.run.unobservable,
        )
        healed = sut.forward([request], schedule=schedule, capture=CapturePlan(), graft=grafts)
        replaced = [(graft.layer, graft.stage) for graft in grafts]
        isolated = Replay(healed, oracle).compare(floor=floor)
        hidden = _adding(isolated, [*mended, *replaced])
        if not hidden:
            break
        mended += hidden
        unmasked |= {site_name(*site): score for site, score in hidden.items()}
    target = oracle.forward([request], capture=logits_only)
    texts = None
    if generations is not None:
        new = len(generations[1].ids)
        after = sut.generate(prompt or request, max_new_tokens=new, graft=grafts)
        texts = tuple((agreement(one.ids, generations[1].ids), new) for one in (generations[0], after))
    tell("proof", 3, 3)
    healed_truth = oracle_trace(oracle, healed)
    after_all = sweep_against(oracle, healed_truth, healed, floor=floor)
    cleared = _cleared(chained, after_all, info.inner)
    effect = effect_on_logits(before=trace, after=healed, target=target)
    silent = None
    if not cleared:
        first = [name for name in added if split_site(name)[1] == sites[0][1]]
        silent = Silent(
            added={name: added[name] for name in first},
            direction={name: direction[name] for name in first},
            healed=scores_at(isolated, [site for site in mended if site[1] not in info.inner])
            | shares_left(trace, healed, oracle=oracle, grafts=grafts),
            adding=tuple(site_name(*site) for site in hidden),
            raised=raised_sites(chained, after_all),
            reversal=measure_reversal(
                trace, healed, oracle=oracle, truths=(truth, healed_truth), grafts=grafts, graph=graph
            ),
            changed=effect.changed,
        )
    return Proof(
        sites=tuple(site_name(*site) for site in sites),
        sham_changed=sham_changed,
        repeats=repeats,
        added=added,
        cleared=cleared,
        unmasked=unmasked,
        effect=effect,
        silent=silent,
        text_before=texts[0] if texts else None,
        text_after=texts[1] if texts else None,
    )


def _sham(
    sut: Any,
    request: Request,
    trace: Trace,
    own_tensors: Callable[[Trace], list[Graft]],
    *,
    again: Trace | None,
    schedule: Schedule,
) -> tuple[int | None, bool]:
    """Logits that the SUT's own tensors change, and whether the SUT gives the same bits from run to run."""
    plan = CapturePlan(stages=("logits",))
    second = logits_of(again if again is not None else sut.forward([request], schedule=schedule, capture=plan))
    if not changed_bits(logits_of(trace), second):
        sham = sut.forward([request], schedule=schedule, capture=plan, graft=own_tensors(trace))
        return changed_bits(second, logits_of(sham)), True
    if "poison" not in sut.describe().can:
        return None, False
    pinned = replace(schedule, poison=PINNED)
    base = sut.forward([request], schedule=pinned, capture=CapturePlan())
    sham = sut.forward([request], schedule=pinned, capture=plan, graft=own_tensors(base))
    return changed_bits(logits_of(base), logits_of(sham)), False


def _own_tensors(trace: Trace, sites: Sequence[Site], graph: Family, inner: frozenset[str]) -> list[Graft]:
    """The SUT's own captures where the output grafts will go."""
    return [
        Graft(capture.layer, capture.stage, trace.tensor(capture), capture.rows)
        for layer in dict.fromkeys(layer for layer, _ in sites)
        for stage in replaced_spans({s for at, s in sites if at == layer}, graph=graph, layer=layer, inner=inner)
        for capture in trace.select(stage=stage, layer=layer)
    ]


def _with_oracle_inputs(
    sut: Any,
    oracle: Any,
    request: Request,
    trace: Trace,
    truth: Trace,
    sites: Sequence[Site],
    graph: Family,
    inner: frozenset[str],
    floor: Floor,
    schedule: Schedule,
) -> tuple[dict[str, float | None], dict[str, str | None]]:
    """Isolated scores of the sites in a run whose inputs there are the oracle's, routed as the SUT was; and of each why
    that is an error and no other order of sums, None where that is not known."""
    layers = trace.run.layers
    inputs = {place for layer, stage in sites for place in _replaceable_inputs(layer, stage, graph, layers, inner)}
    grafts = [
        select_graft(donor=truth, recipient=trace, layer=layer, stage=stage).graft
        for layer, stage in sorted(inputs, key=str)
    ]
    # Other inputs would send tokens to other experts; the choice stays the SUT's, but where it is what is asked about,
    # or where the engine lets nobody choose for it: then each stage is judged with the experts of that very run.
    asked = {layer for layer, stage in sites if stage in ROUTER}
    chosen = [] if "moe.topk_ids" in inner else trace.select(stage="moe.topk_ids")
    chosen = [capture for capture in chosen if capture.layer not in asked]
    grafts += [Graft(capture.layer, capture.stage, trace.tensor(capture), capture.rows) for capture in chosen]
    fed = sut.forward([request], schedule=schedule, capture=CapturePlan(), graft=grafts)
    replay = Replay(fed, oracle)
    scores: dict[str, float | None] = {}
    direction: dict[str, str | None] = {}
    for layer, stage in sites:
        name = site_name(layer, stage)
        records = replay.judge(replay.site(layer, stage), floor=floor)
        found = [math.inf if one.verdict is Verdict.NONFINITE else one.over_floor for one in records]
        scores[name] = max((score for score in found if score is not None), default=None)
        direction[name] = direction_of(replay, (layer, stage), records, floor)
    return scores, direction


def _replaceable_inputs(layer: int | None, stage: str, graph: Family, layers: int, inner: frozenset[str]) -> set[Site]:
    """The sites a stage reads; for one inside a kernel, what that one reads. The choice of experts stays the SUT's."""
    found: set[Site] = set()
    for name in graph.stage(stage).inputs:
        at, source = graph.resolve(layer, name, layers=layers)
        if source == "moe.topk_ids":
            continue
        if source in inner:
            found |= _replaceable_inputs(at, source, graph, layers, inner)
        else:
            found.add((at, source))
    return found


def _adding(isolated: Summary, known: Sequence[Site]) -> dict[Site, float | None]:
    """Sites besides the known ones that add error of their own."""
    return {
        (record.layer, record.stage): record.over_floor
        for record in isolated.comparisons
        if record.verdict is Verdict.EXCEEDS_FLOOR and (record.layer, record.stage) not in known
    }


def _cleared(before: Summary, after: Summary, inner: frozenset[str]) -> dict[str, tuple[float | None, float | None]]:
    """Every site that exceeded its chained floor, before and after; but for what lives inside a kernel, which the graft
    passes by: there the engine goes on showing its own value."""
    scores = {(record.name, record.phase): record for record in after.comparisons}
    result: dict[str, tuple[float | None, float | None]] = {}
    for record in before.comparisons:
        if record.verdict in (Verdict.EXCEEDS_FLOOR, Verdict.NONFINITE) and record.stage not in inner:
            now = scores.get((record.name, record.phase))
            score = None if now is None or now.verdict is Verdict.NONFINITE else now.over_floor
            result[record.name] = (record.over_floor, score)
    return result
