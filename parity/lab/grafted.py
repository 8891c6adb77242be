"""What becomes of the engine's logits and text when a tensor of its forward pass is replaced?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from parity.display import Displayed
from parity.errors import UsageError
from parity.graft import Effect, effect_on_logits, select_graft
from parity.lab.bench import RememberingBench
from parity.lab.texts import Texts
from parity.ladder.replay_graft import replay_grafts
from parity.probes.computing import Site
from parity.records import Slice, site_name
from parity.runner import CapturePlan, ComputedGraft, Graft

DONORS = ("oracle", "replay", "self")
LOGITS = CapturePlan(stages=("logits",))


@dataclass(frozen=True)
class Grafted(Displayed):
    """A graft into the engine and what it did. sites: where, jointly.

    donor: `oracle`, its own tensor, computed from its own inputs; `replay`, the stage as the recipe's emulation
    computes it from the engine's own inputs; `self`, the engine's own tensor, the sham that must change nothing.
    left_out: rows of the slice that went to other experts on the other side. text: the continuation under the graft
    beside the oracle's, and agree_before how many tokens agreed without it; None where no tokens were asked for.
    """

    sites: tuple[str, ...]
    donor: str
    where: Slice
    effect: Effect
    left_out: int = 0
    text: Texts | None = None
    agree_before: int | None = None

    def __repr__(self) -> str:
        return f"Grafted({self.donor} at {', '.join(self.sites)}: {self.effect.line()})"


def graft_into(
    bench: RememberingBench, sites: Sequence[Site], *, donor: str, where: Slice, tokens: int, texts: Callable[[], Texts]
) -> Grafted:
    """Run the engine once more with the donor's tensors at `sites`, and hold its logits against the oracle's.

    texts: gives the continuations without a graft; asked for `tokens` only. Raises UsageError for a donor or a slice
    that does not fit, an engine that cannot graft, or not there.
    """
    engine, info = bench.own, bench.info
    hidden = [site_name(*site) for site in sites if site[1] in info.inner and donor != "replay"]
    if "graft" not in info.can or hidden:
        raise UsageError(
            place=f"graft into runner {info.name}",
            expected="a runner that can replace " + ", ".join(hidden or [site_name(*site) for site in sites]),
            found="a value inside a fused kernel" if hidden else "one that cannot graft",
            next_step="Graft at the stages that read this one."
            if hidden
            else "The isolated replay stands as evidence.",
        )
    grafts, left_out = _grafts(bench, sites, donor, where)
    schedule, request = bench.case.schedule, bench.case.request
    after = engine.forward([request], schedule=schedule, capture=LOGITS, graft=grafts)
    target = bench.oracle.forward([request], capture=LOGITS)
    text = before = None
    if tokens:
        before = texts()
        made = engine.generate(request, max_new_tokens=tokens, schedule=schedule, graft=grafts)
        text = Texts(before.oracle, made)
    return Grafted(
        sites=tuple(site_name(*site) for site in sites),
        donor=donor,
        where=where,
        effect=effect_on_logits(before=bench.trace, after=after, target=target),
        left_out=left_out,
        text=text,
        agree_before=None if before is None else before.agree,
    )


def _grafts(
    bench: RememberingBench, sites: Sequence[Site], donor: str, where: Slice
) -> tuple[list[Graft | ComputedGraft], int]:
    if donor == "replay":
        if where != Slice() or bench.emulation is None:
            raise UsageError(
                place="graft of a replay",
                expected="whole stages, and an emulation of the engine's recipe",
                found=str(where) if where != Slice() else "no emulation",
                next_step="Leave the slice out, or graft the oracle's own tensor (donor='oracle').",
            )
        recipe, replay = bench.info.recipe.name, bench.replay
        made: list[Any] = replay_grafts(
            sites, graph=replay.family, layers=bench.run.layers, inner=bench.info.inner, oracle=bench.emulation,
            recipe=recipe, unobservable=bench.run.unobservable,
        )  # fmt: skip
        return made, 0
    if donor not in DONORS:
        raise UsageError(
            place="donor of a graft",
            expected="one of " + ", ".join(DONORS),
            found=repr(donor),
            next_step="`oracle` mends, `replay` mends what arises here alone, `self` is the sham.",
        )
    given = bench.truth if donor == "oracle" else bench.trace
    chosen = [
        select_graft(donor=given, recipient=bench.trace, layer=layer, stage=stage, where=where)
        for layer, stage in sites
    ]
    return [one.graft for one in chosen], sum(one.left_out for one in chosen)
