"""Can the residual's growth be what compresses the logits? X and X / 100 through the same final norm and head.

With a norm, nothing but the norm's eps and one rounding can tell them apart. Without one the logits shrink by 100:
their argmax and their cosine stay the same, so the *length* of the normed rows is what decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from parity.align import align
from parity.invariance import Invariance, Outcome
from parity.invariance.norm_scale import FACTOR, check_norm_scale
from parity.invariance.subject import Subject
from parity.runner import ComputedGraft, Graft, Replayer, Request, Runner
from parity.trace import MemoryTrace, Trace

CLAIM = "the residual stream has grown and compresses the logits"

EPS_SHARE = 0.5
"""A row whose length eps alone may halve does not tell a norm from none: such a run concludes nothing."""


@dataclass(frozen=True)
class ResidualScale:
    """verdict: `refuted` (the claim cannot hold), `no_norm`, `scale_dependent` or `unresolved`.

    growth: mean norm of the last residual over that of the first layer's output. numbers: as the check gives them.
    exponent: the normed rows' length goes as |X| to this power: 0 with a norm, 1 without.
    """

    verdict: str
    sentence: str
    claim: str
    growth: float | None
    exponent: float | None
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paste(self) -> str:
        """What to put into a report."""
        rows = [f"| claim | {self.claim} |", "|---|---|", f"| verdict | {self.verdict} |"]
        rows += [f"| {name} | {value} |" for name, value in self.numbers.items()]
        return "\n".join([*rows, "", self.sentence])


def falsify_residual_scale(
    runner: Runner, request: Request, *, claim: str = CLAIM, tell: Callable[[str], None] | None = None
) -> ResidualScale:
    """Run the prompt, divide the last layer's output by 100, and hold both against each other.

    The runner grafts the scaled rows, or replays final_norm and logits on them. Raises UsageError for fewer than 8 ids.
    """
    replays = {"graft", "replay"} & runner.describe().can == {"replay"}
    kind = ReplaySubject if replays else Subject
    subject = kind(runner, request, brief=max(len(request.ids), 8), on_run=tell)
    check = check_norm_scale(subject)
    return _conclude(check, claim, _growth(subject) if check.outcome is not Outcome.NOT_RUN else None)


def _growth(subject: Subject) -> float | None:
    base = subject.base(subject.brief)
    first, last = (align(base, "resid.out", layer, 0) for layer in (0, base.run.layers - 1))
    if first is None or last is None:
        return None
    a, b = (float(one.tensor.double().norm(dim=1).mean()) for one in (first, last))
    return b / a if a else None


def _conclude(check: Invariance, claim: str, growth: float | None) -> ResidualScale:
    numbers = dict(check.numbers)
    if check.outcome is Outcome.NOT_RUN:
        return ResidualScale("unresolved", check.sentence, claim, growth, None, numbers)
    turned, length = float(check.evidence["residual_norm_ratio"]), float(numbers["final_norm_length_ratio"])
    allowed = float(numbers.get("allowed_length_least", 1.0))
    # The rows' length against what eps leaves; without a norm it is the residual's own ratio.
    exponent = math.log(length * allowed) / math.log(turned) if length > 0 and 0 < turned < 1 else None
    a, b = numbers["argmax_last"]
    both = (
        f"argmax of the last row {a} for X and {b} for X / {1 / FACTOR:.0f}, cosine of the logits at least "
        f"{numbers['logits_cosine']:.6f}, length of the normed rows {length:.4g} of what a norm leaves"
    )
    grown = "" if growth is None else f" The residual's rows have grown {growth:.3g} times since layer 0."
    if allowed < EPS_SHARE:
        text = (
            f"Unresolved: the residual is so small that eps alone leaves {allowed:.3g} of a row's length at X / 100, "
            f"and that is no test of a norm; {both}."
        )
        return ResidualScale("unresolved", text, claim, growth, exponent, numbers)
    if check.outcome is Outcome.HELD:
        text = f"Refuted: '{claim}'. {both}: a final norm is applied and divides the size of X out.{grown}"
        return ResidualScale("refuted", text, claim, growth, exponent, numbers)
    if exponent is not None and abs(exponent - 1) < 0.05:
        text = (
            f"No norm applied: the rows that enter the head scale with X; {both}. The logits are as large as the "
            f"residual makes them.{grown}"
        )
        return ResidualScale("no_norm", text, claim, growth, exponent, numbers)
    text = f"Scale reaches the head, and not as without a norm: {both}. {check.sentence}{grown}"
    return ResidualScale("scale_dependent", text, claim, growth, exponent, numbers)


class ReplaySubject(Subject):
    """A subject whose grafted run is final_norm and logits replayed on the grafted rows; for runners without grafts."""

    def lacks(self, *abilities: str) -> str:
        return super().lacks(*(name for name in abilities if name != "graft"))

    def forward(
        self, what: str, requests: Sequence[Request], *, graft: Sequence[Graft | ComputedGraft] = (), **rest: Any
    ) -> Trace:
        if not graft:
            return super().forward(what, requests, **rest)
        base, runner = self.base(self.brief), cast(Replayer, self.runner)
        normed = base.select(stage="final_norm")
        logits = base.select(stage="logits")
        last = base.select(stage="resid.out", layer=base.run.layers - 1)
        given: dict[int, torch.Tensor] = {}
        for one, x, norm, out in zip(graft, last, normed, logits, strict=True):
            assert isinstance(one, Graft)  # this check computes its tensor beforehand
            positions, recipe = torch.from_numpy(one.rows.position), self.info.recipe.name
            given[x.number] = one.tensor
            given[norm.number] = runner.replay(
                "final_norm", None, {"resid.in": one.tensor}, positions=positions, recipe=recipe
            )
            given[out.number] = runner.replay(
                "logits", None, {"final_norm": given[norm.number]}, positions=positions, recipe=recipe
            )
        return MemoryTrace(base.run, (*last, *normed, *logits), given)
