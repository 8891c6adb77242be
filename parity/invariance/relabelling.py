"""Does it matter which number an expert or a head goes by? The same weights under other numbers."""

from __future__ import annotations

from dataclasses import replace

import torch

from parity.align import Aligned
from parity.errors import RunnerError
from parity.invariance.judging import judge, rounding_bound
from parity.invariance.record import Invariance, not_run
from parity.invariance.subject import Subject
from parity.runner import Relabel, Schedule
from parity.stages import term

ANCHORED = ("resid.mid", "resid.out")


def check_experts(subject: Subject) -> Invariance:
    """Relabelled experts: every expert goes by another number; each token must still go to the same ones."""
    turn = "every expert under another number"
    experts = int(subject.info.hyper.get("experts", 0))
    missing = subject.lacks("relabel", "graft")
    if missing or experts < 2:
        return not_run("experts", turn, missing or "The model has no experts.")
    # By an odd number near the half: the parity and the half of every number change.
    shift = experts // 2 | 1
    order = tuple((n + shift) % experts for n in range(experts))
    base = subject.base(subject.brief)
    turned = subject.forward(
        "experts relabelled", [subject.brief], schedule=Schedule(relabel=Relabel(experts=order)),
        graft=subject.anchors(base, ANCHORED),
    )  # fmt: skip
    moved = _rows_moved(base, turned, "moe.topk_ids")
    back = torch.tensor(order)

    def view(one: Aligned) -> Aligned:
        if one.stage == "moe.router_logits":
            logits = torch.empty_like(one.tensor)
            logits[:, back] = one.tensor
            return replace(one, tensor=logits)
        if one.stage == "moe.topk_ids":
            return replace(one, tensor=back[one.tensor.long()].to(one.tensor.dtype))
        return one

    return judge(
        "experts", subject, base=base, turned=turned, turn=turn, evidence={"order": order, "rows_renumbered": moved},
        bound=rounding_bound(subject.info), view=view, skip=lambda _, stage: stage in ANCHORED,
    )  # fmt: skip


def check_heads(subject: Subject) -> Invariance:
    """Relabelled heads: query heads in reverse, key/value heads along with them; the same layer output."""
    turn = "heads in reverse order"
    heads, groups = (int(subject.info.hyper.get(name, 0)) for name in ("heads", "kv_heads"))
    missing = subject.lacks("relabel", "graft")
    if missing or heads < 2:
        return not_run("heads", turn, missing or "The model has one head.")
    order = tuple(reversed(range(heads)))
    base = subject.base(subject.brief)
    try:
        turned = subject.forward(
            "heads relabelled", [subject.brief], schedule=Schedule(relabel=Relabel(heads=order)),
            graft=subject.anchors(base, ANCHORED),
        )  # fmt: skip
    except RunnerError as error:
        return not_run("heads", turn, f"Refused by the runner: {error}")
    moved = _rows_moved(base, turned, "attn.q")

    def view(one: Aligned) -> Aligned:
        axes = term(one.stage).axes
        if len(axes) == 3 and axes[1] in ("H", "G"):
            return replace(one, tensor=one.tensor.flip(1))
        return one

    evidence = {"order": order, "kv_heads_moved": groups > 1, "rows_renumbered": moved}
    evidence = {key: value for key, value in evidence.items() if value}
    return judge(
        "heads", subject, base=base, turned=turned, turn=turn, evidence=evidence,
        bound=rounding_bound(subject.info), view=view, skip=lambda _, stage: stage in ANCHORED,
    )  # fmt: skip


def _rows_moved(base, turned, stage: str) -> int:
    """Rows of a stage that a renumbering has changed in the raw traces."""
    moved = 0
    for a, b in zip(base.select(stage=stage), turned.select(stage=stage), strict=False):
        moved += int((base.tensor(a) != turned.tensor(b)).flatten(1).any(1).sum())
    return moved
