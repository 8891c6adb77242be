"""What changes when a tensor of one run is put into another? Two runs, a graft, and the symptom before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity.errors import UsageError
from parity.graft.effect import Effect, effect_on_logits
from parity.graft.select import select_graft
from parity.records import Site
from parity.runner import CapturePlan, Generation, Request

ROUTING = ("moe.topk_ids",)


@dataclass(frozen=True)
class Transplant:
    """A graft from donor into recipient and what it did.

    effect: of the recipient's logits against the donor's. left_out: rows that went to other experts on the other side.
    before, after, donor: greedy continuations, None when none were asked for.
    """

    site: Site
    effect: Effect
    left_out: int
    before: Generation | None = None
    after: Generation | None = None
    donor: Generation | None = None


def transplant(*, donor: Any, recipient: Any, request: Request, site: Site, max_new_tokens: int = 0) -> Transplant:
    """Run both, put the donor's tensor (or the slice `site.slice` of it) into the recipient, and run that again.

    donor: can forward. recipient: can forward and graft. site: its layers jointly; none for a stage outside them.
    max_new_tokens: how many tokens to continue greedily, on the prompt's graft; 0 for none.
    Raises UsageError for a recipient that cannot graft, or not there, and as `select_graft` does.
    """
    info = recipient.describe()
    if "graft" not in info.can or site.stage in info.inner:
        raise UsageError(
            place=f"graft into runner {info.name}",
            expected=f"a runner that can replace {site.stage}",
            found="one that cannot graft" if "graft" not in info.can else "a value inside a fused kernel",
            next_step="Graft the other way, or at the stages that read this one.",
        )
    layers: tuple[int | None, ...] = site.layers or (None,)
    plan = CapturePlan(stages=(site.stage, "logits", *ROUTING))
    given = donor.forward([request], capture=plan)
    own = recipient.forward([request], capture=plan)
    chosen = [select_graft(donor=given, recipient=own, layer=n, stage=site.stage, where=site.slice) for n in layers]
    grafts = [selection.graft for selection in chosen]
    after = recipient.forward([request], capture=CapturePlan(stages=("logits",)), graft=grafts)
    texts: tuple[Generation | None, ...] = (None, None, None)
    if max_new_tokens:
        texts = (
            recipient.generate(request, max_new_tokens=max_new_tokens),
            recipient.generate(request, max_new_tokens=max_new_tokens, graft=grafts)
            if site.stage != "logits"
            else None,
            donor.generate(request, max_new_tokens=max_new_tokens),
        )
    return Transplant(
        site=site,
        effect=effect_on_logits(before=own, after=after, target=given),
        left_out=sum(selection.left_out for selection in chosen),
        before=texts[0],
        after=texts[1],
        donor=texts[2],
    )
