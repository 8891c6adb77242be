"""Does the sampler do what it was asked to? An engine's greedy choices against the argmax of its own logits.

The logits are the engine's, teacher-forced on its own continuation: whatever is wrong with the model is in them too,
so a choice that is not their largest is the sampler's doing. Temperature, top-p and min-p leave the largest logit the
largest: on the greedy path they can be neither seen nor excused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from parity.decode.asked import penalized
from parity.decode.penalty import PenaltyRange, fit_penalties
from parity.decode.side import Forced
from parity.sampling import Sampling, differing

REORDER = 2.0**-20
"""Relative move of a logit that another order of one fp32 sum makes: 16 unit roundoffs, sqrt(n) for n = 256 terms
(Higham & Mary 2019, doi 10.1137/18M1226312); only ties are that near."""


GREEDY = Sampling()


@dataclass(frozen=True)
class Odd:
    """A new token that is not the largest of the engine's own logits: which it chose, which is, and by how much.

    own_move: largest move of a logit of that row between two ways of feeding the same ids; 0 where not measured.
    """

    token: int
    chosen: int
    largest: int
    gap: float
    own_move: float = 0.0


@dataclass(frozen=True)
class SamplerCheck:
    """outcome: `as_asked`, `differs` or `unresolved`.

    asked, declared: settings by name, as asked for and as the runner states them. odd: choices that are not the argmax
    under the bans asked for. banned_emitted: (new token, id) of banned ids that came out. avoided: ids that were the
    largest and never chosen. penalties: what explains all choices. causes: what follows, in words.
    """

    outcome: str
    tokens: int
    odd: tuple[Odd, ...]
    banned_emitted: tuple[tuple[int, int], ...]
    avoided: tuple[int, ...]
    penalties: tuple[PenaltyRange, ...]
    causes: tuple[str, ...]
    sentence: str
    asked: Mapping[str, Any] = field(default_factory=dict)
    declared: Mapping[str, Any] = field(default_factory=dict)


def check_sampler(
    own: Forced,
    *,
    asked: Sampling = GREEDY,
    declared: Mapping[str, Any] | None = None,
    other_way: torch.Tensor | None = None,
    repeated: Sequence[int] | None = None,
) -> SamplerCheck:
    """Hold the choices in `own.ids` against the engine's logits.

    own: forced on the runner's own continuation. asked: penalties and bans asked for; ids that the runner declares to
    suppress are asked too. other_way: [N, V] the same rows, fed at
    once: how far the engine's own logits move. repeated: the continuation of a second run, to tell sampling from a
    penalty.
    """
    stated = dict(declared or {})
    under = replace(asked, banned=(*asked.banned, *stated.get("suppress_tokens", ())))
    asked_bans = under.banned
    chosen = own.ids[own.prompt :]
    logits = own.choices.double()
    allowed = penalized(logits, own.ids[: own.prompt], chosen, under)
    out = set(asked_bans) | (set(range(logits.shape[1])) - set(under.allowed) if under.allowed else set())
    emitted = tuple((step, token) for step, token in enumerate(chosen) if token in out)
    moves = torch.zeros(len(chosen)) if other_way is None else (other_way.double() - logits).abs().amax(1)
    slack = [2 * (float(move) + REORDER * float(row.abs().max())) for move, row in zip(moves, logits, strict=True)]
    odd = []
    for step, token in enumerate(chosen):
        best = int(allowed[step].argmax())
        gap = float(allowed[step, best] - allowed[step, token])
        if token not in out and gap > slack[step]:
            odd.append(Odd(step, token, best, gap, float(moves[step])))
    penalties = (
        fit_penalties(logits, chosen, own.ids[: own.prompt], banned=tuple(sorted(out)), slack=slack) if odd else ()
    )
    avoided = tuple(dict.fromkeys(one.largest for one in odd if one.largest not in chosen)) if odd else ()
    hidden_mask = bool(odd) and all(_largest_without(allowed[o.token], avoided) == o.chosen for o in odd)
    # What a runner states is in force where nothing is asked: a default there contradicts no call that asks for more.
    plain = GREEDY.settings()
    differs = {name: pair for name, pair in differing(asked, stated).items() if pair[1] and pair[1] != plain[name]}
    causes = tuple(f"it declares {name} {got}, asked {want}" for name, (want, got) in differs.items())
    causes += _causes(emitted, odd, penalties, avoided if hidden_mask else (), repeated, chosen)
    unstable = bool(odd) and any(one.own_move > one.gap / 4 for one in odd) and not emitted
    outcome = "unresolved" if unstable else "differs" if causes else "as_asked"
    said = " under what was asked" if under != GREEDY else ""
    head = f"{len(odd)} of {len(chosen)} greedy choices are not the largest of the engine's own logits{said}"
    if not odd:
        head = f"All {len(chosen)} greedy choices are the largest of the engine's own logits{said}"
    if emitted:
        head += f"; {len(emitted)} banned tokens came out, the first is {emitted[0][1]} as new token {emitted[0][0]}"
    tail = "" if not causes else ": " + "; ".join(causes)
    if not causes:
        tail = ". Temperature, top-p and min-p do not move the largest: this cannot see them"
    return SamplerCheck(
        outcome, len(chosen), tuple(odd), emitted, avoided, penalties, causes, f"{head}{tail}.",
        asked.settings(), stated,
    )  # fmt: skip


def _causes(
    emitted: Sequence[Any],
    odd: Sequence[Odd],
    penalties: Sequence[PenaltyRange],
    avoided: Sequence[int],
    repeated: Sequence[int] | None,
    chosen: Sequence[int],
) -> tuple[str, ...]:
    causes = []
    if emitted:
        causes.append("the mask of banned tokens is not applied on the greedy path")
    if not odd:
        return tuple(causes)
    if repeated is not None and tuple(repeated) != tuple(chosen):
        return (*causes, "a second run chose otherwise: the engine samples where greedy was asked for")
    fits = [f"{one.kind} {one.low:.4g} to {one.high:.4g}" for one in penalties if not one.explains_without]
    if fits:
        causes.append("a penalty explains every choice: " + ", or ".join(fits))
    if avoided:
        causes.append(f"so would a mask that was not asked for, on {', '.join(map(str, avoided[:8]))}")
    if not fits and not avoided:
        causes.append("no single penalty and no mask explains every choice")
    return tuple(causes)


def _largest_without(row: torch.Tensor, avoided: Sequence[int]) -> int:
    row = row.clone()
    row[list(avoided)] = float("-inf")
    return int(row.argmax())
