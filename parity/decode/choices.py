"""Does a runner decode greedily as it was asked? Its own continuation held against its own logits; no oracle is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from parity.decode.sampler import SamplerCheck, check_sampler
from parity.decode.shown import completed
from parity.decode.side import Forced, continue_greedily, force, require_decoding
from parity.errors import RunnerError
from parity.runner import Request
from parity.sampling import Sampling


def examine_sampler(
    runner: Any,
    request: Request,
    tokens: int,
    *,
    asked: Sampling | None = None,
    ids: Sequence[int] | None = None,
    forced: Forced | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> SamplerCheck:
    """The runner's continuation of a prompt, at most `tokens` ids, against its logits on it.

    asked: penalties and bans asked for; temperature 0. ids: the continuation, where it is known already, made under the
    same settings; forced: the runner's logits on some continuation of this prompt, used where it is that one.
    One generation and one forward pass, less what is given; two more where a choice is odd. Raises UsageError and
    RunnerError as `compare_decoding` does.
    """
    asked = asked or Sampling()
    info = runner.describe()
    require_decoding(info, request, tokens)
    if ids is None:
        tell("the SUT's continuation")
    chosen = continue_greedily(runner, request, tokens, sampling=asked) if ids is None else tuple(ids)
    other = None
    if forced is None or forced.ids != (*request.ids, *chosen):
        # Fed at once, as a prompt, it takes one step in place of one a token. Choices that are the largest there need
        # no second look; others do, by the steps that the engine chose in.
        tell("the SUT on its own continuation")
        at_once = completed(force(runner, request, chosen, stepwise=False))
        checked = check_sampler(at_once, declared=info.sampler, asked=asked)
        if not checked.odd:
            return checked
        other, forced = at_once.choices, force(runner, request, chosen)
    own = completed(forced)
    checked = check_sampler(own, declared=info.sampler, asked=asked)
    if checked.odd:
        # Only now is it worth more runs: how far its own logits move, and whether it chooses the same again.
        tell("the SUT once more, to see whether it agrees with itself")
        if other is None:
            other = completed(force(runner, request, chosen, stepwise=False)).choices
        again = continue_greedily(runner, request, len(chosen), sampling=asked)
        checked = check_sampler(own, declared=info.sampler, other_way=other, repeated=again, asked=asked)
    return checked


def examine_under_ban(
    runner: Any, request: Request, tokens: int, *, tell: Callable[[str], None] = lambda what: None
) -> SamplerCheck | None:
    """The runner's continuation with its own first choice banned, against its logits; None where nothing can be banned.

    A mask that a greedy path skips is seen by no continuation whose largest logit is allowed: so that one is forbidden.
    Two generations and a forward pass of `request`, which may be brief. Raises as `examine_sampler` does.
    """
    info = runner.describe()
    if "sample" not in info.can or not request.ids:
        return None
    tell("the SUT's first choice")
    try:
        first = continue_greedily(runner, request, 1)
    except RunnerError:
        return None  # it ends at once: there is no choice to forbid
    return examine_sampler(runner, request, tokens, asked=Sampling(banned=first), tell=tell)
